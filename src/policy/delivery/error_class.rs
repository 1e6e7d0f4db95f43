//! The classes of refusals, which programs can distinguish, and the other errors that the relay counts.

use std::fmt;

/// Why an event was refused. `error_class` in `outbox.dead_letters` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// The event, or its batch, is larger than the broker accepts or a request can hold.
    TooLarge,
    /// The topic does not exist.
    UnknownTopic,
    /// The topic has no such partition.
    UnknownPartition,
    /// The relay's Kafka user may not write to the topic.
    NotAuthorized,
    /// The name is not a topic name.
    InvalidTopic,
    /// The topic does not accept such a record.
    InvalidRecord,
    /// The topic does not accept the record's timestamp.
    InvalidTimestamp,
    /// Kafka did not refuse it: it was not published before its `expires_at`.
    Expired,
    /// Any other refusal.
    Other,
}

impl ErrorClass {
    /// All classes.
    pub const ALL: [Self; 9] = [
        Self::TooLarge,
        Self::UnknownTopic,
        Self::UnknownPartition,
        Self::NotAuthorized,
        Self::InvalidTopic,
        Self::InvalidRecord,
        Self::InvalidTimestamp,
        Self::Expired,
        Self::Other,
    ];

    /// The class as SQL shows it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::UnknownTopic => "unknown_topic",
            Self::UnknownPartition => "unknown_partition",
            Self::NotAuthorized => "not_authorized",
            Self::InvalidTopic => "invalid_topic",
            Self::InvalidRecord => "invalid_record",
            Self::InvalidTimestamp => "invalid_timestamp",
            Self::Expired => "expired",
            Self::Other => "other",
        }
    }

    /// The class that SQL shows as `text`. `None` for a class that only an earlier or a later release has.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.as_str() == text)
    }

    /// Whether the cause lies outside the event, so that an administrator or another deployment removes it.
    #[must_use]
    pub fn is_fixed_by_others(self) -> bool {
        matches!(self, Self::UnknownTopic | Self::NotAuthorized)
    }

    /// Whether Kafka has refused the event. If not, that is no attempt, and no other attempt follows.
    #[must_use]
    pub fn is_refusal(self) -> bool {
        self != Self::Expired
    }
}

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The errors that `error_counts` in `outbox.status` counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CountedError {
    /// An event was refused.
    Refusal(ErrorClass),
    /// No broker answered.
    Disconnected,
    /// A producer could not be created, or stopped working.
    Producer,
}

impl CountedError {
    /// The number of kinds.
    pub const COUNT: usize = ErrorClass::ALL.len() + 2;

    /// All kinds, each at its [`index`](Self::index).
    pub fn all() -> impl Iterator<Item = Self> {
        ErrorClass::ALL.into_iter().map(Self::Refusal).chain([Self::Disconnected, Self::Producer])
    }

    /// A number below [`COUNT`](Self::COUNT) that only this kind has.
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::Refusal(class) => class as usize,
            Self::Disconnected => ErrorClass::ALL.len(),
            Self::Producer => ErrorClass::ALL.len() + 1,
        }
    }

    /// The kind as SQL shows it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refusal(class) => class.as_str(),
            Self::Disconnected => "disconnected",
            Self::Producer => "producer",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_at_its_index() {
        let indexes: Vec<_> = CountedError::all().map(CountedError::index).collect();
        assert_eq!(indexes, (0..CountedError::COUNT).collect::<Vec<_>>());
    }

    #[test]
    fn a_class_is_parsed_from_what_it_is_shown_as() {
        for class in ErrorClass::ALL {
            assert_eq!(ErrorClass::parse(class.as_str()), Some(class));
        }
        assert_eq!(ErrorClass::parse("of_a_later_release"), None);
    }
}
