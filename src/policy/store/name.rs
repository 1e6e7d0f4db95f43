//! Owns the rules of names: a stream is named `category-id`.

/// The longest name of a stream, in bytes. It is the key of its events in Kafka, and lies in an index.
pub const MAX_NAME_BYTES: usize = 512;

/// The longest name of a category, in bytes.
pub const MAX_CATEGORY_BYTES: usize = 100;

/// Whether this can be the name of a category: 1 to 100 ASCII letters, digits, `.` and `_`.
#[must_use]
pub fn is_category(name: &str) -> bool {
    (1..=MAX_CATEGORY_BYTES).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_'))
}

/// The category of a stream: what its name has before the first `-`. `None` if this cannot be the name of a stream.
#[must_use]
pub fn category_of(stream: &str) -> Option<&str> {
    let (category, id) = stream.split_once('-')?;
    let is_valid = stream.len() <= MAX_NAME_BYTES
        && is_category(category)
        && !id.is_empty()
        && !id.chars().any(char::is_control);
    is_valid.then_some(category)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_stream_is_a_category_and_an_id() {
        for (stream, category) in [
            ("account-1", Some("account")),
            ("account-1-2", Some("account")),
            ("bank.account_v2-\u{e9}", Some("bank.account_v2")),
            ("a--", Some("a")),
            ("account", None),
            ("account-", None),
            ("-1", None),
            ("acc ount-1", None),
            ("account-1\n", None),
            ("*-1", None),
            ("", None),
        ] {
            assert_eq!(category_of(stream), category, "{stream:?}");
        }
        assert!(category_of(&format!("a-{}", "x".repeat(MAX_NAME_BYTES - 2))).is_some());
        assert!(category_of(&format!("a-{}", "x".repeat(MAX_NAME_BYTES - 1))).is_none());
        assert!(category_of(&format!("{}-1", "x".repeat(MAX_CATEGORY_BYTES))).is_some());
        assert!(category_of(&format!("{}-1", "x".repeat(MAX_CATEGORY_BYTES + 1))).is_none());
    }

    proptest! {
        #[test]
        fn any_text_is_a_name_or_none(text in "\\PC{0,60}") {
            if let Some(category) = category_of(&text) {
                prop_assert!(is_category(category));
                let prefix = format!("{category}-");
                prop_assert!(text.starts_with(&prefix));
            }
        }
    }
}
