//! What consumers of Kafka can rely on: how often an event arrives when something crashes.

use std::fmt;

use crate::event::topic::Pattern;

/// How events are delivered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum DeliveryMode {
    /// Published, then deleted: a crash between the two publishes again.
    #[default]
    AtLeastOnce,
    /// Deleted, then published, once: a crash between the two loses.
    AtMostOnce,
    /// Published in a transaction that tells the next relay what it has published, then deleted: a crash repeats and loses
    /// nothing, as readers of committed records see it.
    ExactlyOnce,
}

impl DeliveryMode {
    /// All modes.
    pub const ALL: &'static [Self] = &[Self::AtLeastOnce, Self::AtMostOnce, Self::ExactlyOnce];

    /// The mode that SQL shows as `text`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|mode| mode.as_str() == text)
    }

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

/// How the events of each topic are delivered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deliveries {
    /// The topics that have a mode of their own, the most particular pattern first.
    own: Vec<(Pattern, DeliveryMode)>,
}

impl Deliveries {
    /// The topics that have a mode of their own, in any order.
    #[must_use]
    pub fn new(mut own: Vec<(Pattern, DeliveryMode)>) -> Self {
        own.sort_by_key(|(pattern, _)| match pattern {
            Pattern::Topic(_) => (0, 0),
            Pattern::Prefix(prefix) => (1, usize::MAX - prefix.len()),
        });
        Self { own }
    }

    /// How the events of a topic are delivered: as the pattern says that matches it, the longest if several do, or else
    /// in the mode of the database.
    #[must_use]
    pub fn of(&self, topic: &str, database: DeliveryMode) -> DeliveryMode {
        self.own.iter().find(|(pattern, _)| pattern.matches(topic)).map_or(database, |(_, mode)| *mode)
    }

    /// Whether any topic has a mode of its own.
    #[must_use]
    pub fn has_any(&self) -> bool {
        !self.own.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_is_parsed_from_what_it_is_shown_as() {
        for mode in DeliveryMode::ALL {
            assert_eq!(DeliveryMode::parse(mode.as_str()), Some(*mode));
        }
        assert_eq!(DeliveryMode::parse("twice"), None);
    }

    #[test]
    fn the_most_particular_pattern_decides() {
        let own = [
            ("*", "at_least_once"),
            ("log.*", "at_most_once"),
            ("log.audit", "at_least_once"),
            ("l*", "at_least_once"),
        ];
        let own = own.map(|(pattern, mode)| (Pattern::new(pattern), DeliveryMode::parse(mode).unwrap()));
        let deliveries = Deliveries::new(own.to_vec());
        let of = |topic| deliveries.of(topic, DeliveryMode::AtMostOnce).as_str();
        assert_eq!(
            ["log.web", "log.audit", "lag", "orders"].map(of),
            ["at_most_once", "at_least_once", "at_least_once", "at_least_once"]
        );
        let none = Deliveries::default();
        assert!(deliveries.has_any() && !none.has_any());
        assert_eq!(none.of("log.web", DeliveryMode::AtMostOnce), DeliveryMode::AtMostOnce);
    }
}
