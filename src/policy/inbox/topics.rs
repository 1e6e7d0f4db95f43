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

/// The topic and its new id, if librdkafka says in this line of its log that it has learnt of another id of a topic.
#[must_use]
pub fn changed_id(line: &str) -> Option<(&str, &str)> {
    let (start, ids) = line.split_once(" changed id from ")?;
    let (_, topic) = start.rsplit_once("Topic ")?;
    let (_, id) = ids.split_once(" to ")?;
    (!topic.is_empty() && !id.is_empty()).then_some((topic, id))
}

#[cfg(test)]
mod tests {
    use super::{changed_id, matches};

    #[test]
    fn librdkafka_tells_of_another_id() {
        let line =
            "[thrd:main]: Topic shop.orders changed id from AAAAAAAAAAAAAAAAAAAAAA to khHpCg3zRzaKhJx4aifzFQ";
        assert_eq!(changed_id(line), Some(("shop.orders", "khHpCg3zRzaKhJx4aifzFQ")));
        for other in [
            "[thrd:main]: Topic shop.orders [0] Leader 1 Epoch 0",
            "Topic shop.orders changed id from x",
            " changed id from x to y",
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
