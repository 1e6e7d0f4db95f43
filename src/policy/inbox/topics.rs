//! Patterns of topic names, and the ids of topics.

/// Whether the name of a topic matches a pattern, in which each asterisk stands for any number of any characters.
#[must_use]
pub fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let mut last = None;
    for part in parts {
        // The part before this one may match as early as it can, because an asterisk follows it.
        if let Some(before) = last.replace(part) {
            match rest.find(before) {
                Some(at) => rest = &rest[at + before.len()..],
                None => return false,
            }
        }
    }
    last.map_or(rest.is_empty(), |last| rest.ends_with(last))
}

/// What librdkafka says of the id of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangedId<'a> {
    /// The topic.
    pub topic: &'a str,
    /// Its id.
    pub id: &'a str,
    /// It had another id before: the topic was deleted and created again. Otherwise this is the first one that is known.
    pub is_recreated: bool,
}

/// The id of a topic that librdkafka did not know before.
const NO_ID: &str = "AAAAAAAAAAAAAAAAAAAAAA";

/// What librdkafka says of the id of a topic in this line of its log, if that is what the line is about.
#[must_use]
pub fn changed_id(line: &str) -> Option<ChangedId<'_>> {
    let (start, ids) = line.split_once(" changed id from ")?;
    let (_, topic) = start.rsplit_once("Topic ")?;
    let (before, id) = ids.split_once(" to ")?;
    // A broker that is too old for ids does not tell one.
    let is_whole = ![topic, before, id].contains(&"") && id != NO_ID;
    is_whole.then_some(ChangedId { topic, id, is_recreated: before != NO_ID })
}

/// Why a subscription reads nothing of these partitions of a topic, which no broker leads; `None` if there are none.
#[must_use]
pub fn without_leader(
    subscription: &str,
    topic: &str,
    partitions: impl IntoIterator<Item = i32>,
) -> Option<String> {
    let mut partitions = partitions.into_iter();
    let first = partitions.next()?;
    let which = match partitions.count() {
        0 => format!("partition {first} of topic \"{topic}\" has no leader"),
        others => format!("partition {first} and {others} others of topic \"{topic}\" have no leader"),
    };
    Some(format!(
        "subscription \"{subscription}\" waits: {which}; look whether the brokers that have its replicas run"
    ))
}

#[cfg(test)]
mod tests {
    use super::{ChangedId, NO_ID, changed_id, matches, without_leader};

    #[test]
    fn partitions_without_a_leader_are_named_or_counted() {
        let told = |partitions: &[i32]| without_leader("s", "t", partitions.iter().copied());
        assert_eq!(told(&[]), None);
        assert!(told(&[3]).is_some_and(|text| text.contains("partition 3 of topic \"t\" has no leader")));
        assert!(told(&[3, 5, 7]).is_some_and(|text| text.contains("partition 3 and 2 others of topic")));
    }

    #[test]
    fn librdkafka_tells_of_another_id() {
        let line =
            "[thrd:main]: Topic shop.orders changed id from AAAAAAAAAAAAAAAAAAAAAA to khHpCg3zRzaKhJx4aifzFQ";
        let first = ChangedId { topic: "shop.orders", id: "khHpCg3zRzaKhJx4aifzFQ", is_recreated: false };
        assert_eq!(changed_id(line), Some(first));
        let line = line.replace(NO_ID, "0uXh2aTbTm6Zr1xkQ3WcVg");
        assert_eq!(changed_id(&line), Some(ChangedId { is_recreated: true, ..first }));
        for other in [
            "[thrd:main]: Topic shop.orders [0] Leader 1 Epoch 0",
            "Topic shop.orders changed id from x",
            " changed id from x to y",
            "Topic shop changed id from  to x",
            "Topic shop changed id from x to AAAAAAAAAAAAAAAAAAAAAA",
            "Topic  changed id from x to y",
            "Topic shop changed id from x to ",
        ] {
            assert_eq!(changed_id(other), None, "{other}");
        }
    }

    #[test]
    fn asterisks_stand_for_any_characters() {
        for (pattern, name) in [
            ("a", "a"),
            ("*", ""),
            ("*", "abc"),
            ("orders.*", "orders.eu"),
            ("orders.*", "orders."),
            ("*.events", "shop.events"),
            ("a*b*c", "abc"),
            ("a*b*c", "a1b2b3c"),
            ("a**c", "ac"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in
            [("a", "ab"), ("orders.*", "orders"), ("a*b*c", "acb"), ("a*a", "a"), ("", "a")]
        {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }
}
