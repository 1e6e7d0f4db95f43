//! Owns the rules of topic names, patterns of topics, and the NOTIFY channel of each topic.

use sha2::{Digest, Sha256};

/// The longest topic name that Kafka accepts, in bytes (`org.apache.kafka.common.internals.Topic`).
pub const MAX_TOPIC_BYTES: usize = 249;

/// The longest NOTIFY channel that Postgres accepts, in bytes (`NAMEDATALEN - 1`).
pub const MAX_CHANNEL_BYTES: usize = 63;

const CHANNEL_PREFIX: &str = "outbox:";
const DIGEST_HEX: usize = 32;

/// Kafka's internal topics, which hold offsets, transactions, share groups and the cluster's metadata. Events written there
/// would break Kafka, unless it refuses them.
const INTERNAL: [&str; 4] =
    ["__consumer_offsets", "__transaction_state", "__share_group_state", "__cluster_metadata"];

/// Whether the topic is an internal one of Kafka's.
#[must_use]
pub fn is_internal(name: &str) -> bool {
    INTERNAL.contains(&name)
}

/// Whether events can go to a topic with this name: 1 to 249 characters of `[a-zA-Z0-9._-]`, neither `.` nor `..`, and not
/// an internal topic.
#[must_use]
pub fn is_valid(name: &str) -> bool {
    (1..=MAX_TOPIC_BYTES).contains(&name.len())
        && name != "."
        && name != ".."
        && !is_internal(name)
        && has_valid_characters(name)
}

fn has_valid_characters(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// The topics of a grant: one topic, or all topics with a common prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pattern {
    /// One topic.
    Topic(String),
    /// All topics whose names begin with this prefix.
    Prefix(String),
}

impl Pattern {
    /// Reads a pattern: an asterisk at its end makes it a prefix. Topic names cannot contain an asterisk.
    #[must_use]
    pub fn new(text: &str) -> Self {
        match text.strip_suffix('*') {
            Some(prefix) => Self::Prefix(prefix.to_owned()),
            None => Self::Topic(text.to_owned()),
        }
    }

    /// Whether the pattern is a valid topic name, or the beginning of one. Other patterns match no topic.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        match self {
            Self::Topic(name) => is_valid(name),
            Self::Prefix(prefix) => prefix.len() < MAX_TOPIC_BYTES && has_valid_characters(prefix),
        }
    }

    /// Whether the pattern matches this topic.
    #[must_use]
    pub fn matches(&self, topic: &str) -> bool {
        match self {
            Self::Topic(name) => topic == name,
            Self::Prefix(prefix) => topic.starts_with(prefix.as_str()),
        }
    }
}

/// The NOTIFY channel of a topic: `outbox:` and the topic. A topic that is too long for a channel is cut, and `~` and 128
/// bits of its SHA-256 are appended, so two topics never share a channel. Topic names cannot contain `~`, so a shortened
/// name cannot equal a whole one.
#[must_use]
pub fn channel(topic: &str) -> String {
    if CHANNEL_PREFIX.len() + topic.len() <= MAX_CHANNEL_BYTES {
        return format!("{CHANNEL_PREFIX}{topic}");
    }
    let mut room = MAX_CHANNEL_BYTES - CHANNEL_PREFIX.len() - 1 - DIGEST_HEX;
    while !topic.is_char_boundary(room) {
        room -= 1;
    }
    let digest = Sha256::digest(topic.as_bytes());
    let hex: String = digest.iter().take(DIGEST_HEX / 2).map(|byte| format!("{byte:02x}")).collect();
    format!("{CHANNEL_PREFIX}{}~{hex}", &topic[..room])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_follow_kafkas_rules() {
        for good in ["a", "__orders", "orders", "Orders.v1_eu-west", "...", &"x".repeat(249)] {
            assert!(is_valid(good), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "a b",
            "naïve",
            "a/b",
            "a\n",
            "a,b",
            "a:b",
            "__consumer_offsets",
            &"x".repeat(250),
        ] {
            assert!(!is_valid(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_pattern_is_a_name_or_a_beginning() {
        for (pattern, topic, matches) in [
            ("orders", "orders", true),
            ("orders", "orders.eu", false),
            ("orders", "Orders", false),
            ("orders*", "orders", true),
            ("orders.*", "orders.eu", true),
            ("orders.*", "orders", false),
            ("orders.*", "ordersXeu", false),
            ("*", "anything", true),
            ("a*b*", "a*b*", true),
            ("a*b*", "axb", false),
            ("", "orders", false),
        ] {
            assert_eq!(Pattern::new(pattern).matches(topic), matches, "{pattern} {topic}");
        }
    }

    #[test]
    fn a_valid_pattern_matches_some_topic() {
        for good in ["orders", "orders.*", "*", ".*", "__consumer*", &format!("{}*", "x".repeat(248))] {
            assert!(Pattern::new(good).is_valid(), "{good}");
        }
        for bad in [
            "",
            "a b",
            "a*b",
            "a*b*",
            "**",
            "naïve*",
            ".",
            "__consumer_offsets",
            &format!("{}*", "x".repeat(249)),
        ] {
            assert!(!Pattern::new(bad).is_valid(), "{bad:?}");
        }
    }

    #[test]
    fn a_short_topic_is_its_channel() {
        assert_eq!(channel("orders"), "outbox:orders");
        assert_eq!(channel(&"x".repeat(56)).len(), 63);
        assert!(!channel(&"x".repeat(56)).contains('~'));
    }

    proptest! {
        #[test]
        fn channels_fit_and_differ(a in "[a-zA-Z0-9._-]{1,249}", b in "[a-zA-Z0-9._-]{1,249}") {
            prop_assert!(channel(&a).len() <= MAX_CHANNEL_BYTES);
            prop_assert_eq!(channel(&a) == channel(&b), a == b);
            // Cutting alone would merge long names that differ only at the end.
            let (long_a, long_b) = (format!("{a}{}", "x".repeat(60)), format!("{a}{}y", "x".repeat(60)));
            prop_assert_ne!(channel(&long_a), channel(&long_b));
        }

        #[test]
        fn any_text_gives_a_channel(text in "\\PC{0,200}") {
            prop_assert!(channel(&text).len() <= MAX_CHANNEL_BYTES);
        }
    }
}
