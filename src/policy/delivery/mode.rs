//! What consumers of Kafka can rely on: how often an event arrives when something crashes.

use std::fmt;

/// How events are delivered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum DeliveryMode {
    /// Published, then deleted: a crash between the two publishes again.
    #[default]
    AtLeastOnce,
    /// Deleted, then published, once: a crash between the two loses.
    AtMostOnce,
    /// Published in a transaction of Kafka that also says what was published.
    ExactlyOnce,
}

impl DeliveryMode {
    /// All modes.
    pub const ALL: &'static [Self] = &[Self::AtLeastOnce, Self::AtMostOnce, Self::ExactlyOnce];

    /// The mode as the setting and SQL show it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AtLeastOnce => "at_least_once",
            Self::AtMostOnce => "at_most_once",
            Self::ExactlyOnce => "exactly_once",
        }
    }
}

impl fmt::Display for DeliveryMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
