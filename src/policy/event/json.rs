//! Compacts JSON text before it goes to Kafka, and finds what is special in strings.

use std::ops::Range;

/// How many bytes of a string are looked at at once.
const BYTES_AT_ONCE: usize = 16;

/// Removes the white space between the tokens of a JSON text. Numbers, escapes and the order of keys
/// stay as they are. Parsing the text and printing it again would not guarantee that.
///
/// `text` must be valid JSON, as Postgres' own output is. White space inside strings is kept.
#[must_use]
pub fn compact(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while let Some(run) = next_run(text.as_bytes(), at) {
        at = run.end;
        out.push_str(&text[run]);
    }
    out
}

/// Like [`compact`], but in place, for texts that are too large to copy. Returns the new length.
#[must_use]
pub fn compact_in_place(text: &mut [u8]) -> usize {
    let (mut at, mut length) = (0, 0);
    while let Some(run) = next_run(text, at) {
        at = run.end;
        let bytes = run.len();
        if run.start > length {
            text.copy_within(run, length);
        }
        length += bytes;
    }
    length
}

/// The length in bytes of the text that [`compact`] returns.
#[must_use]
pub fn compact_bytes(text: &str) -> usize {
    let (mut at, mut length) = (0, 0);
    while let Some(run) = next_run(text.as_bytes(), at) {
        at = run.end;
        length += run.len();
    }
    length
}

/// The next run of bytes to keep, from `at` on.
fn next_run(text: &[u8], at: usize) -> Option<Range<usize>> {
    let is_space = |byte: u8| matches!(byte, b' ' | b'\n' | b'\r' | b'\t');
    let begin = at + text[at..].iter().position(|byte| !is_space(*byte))?;
    let mut end = begin;
    while end < text.len() && !is_space(text[end]) {
        end = if text[end] == b'"' { after_string(text, end) } else { end + 1 };
    }
    Some(begin..end)
}

/// The position after the string whose opening quote is at `open`.
fn after_string(bytes: &[u8], open: usize) -> usize {
    let mut at = open + 1;
    while at < bytes.len() {
        let Some(special) = first_special(&bytes[at..]) else { break };
        at += special;
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// Whether a byte ends a string, begins an escape, or has to be escaped.
const fn is_special(byte: u8) -> bool {
    // Without branches, so that the processor compares many bytes at once.
    (byte == b'"') | (byte == b'\\') | (byte < b' ')
}

/// Where the first byte is that a string of JSON cannot have as it is.
#[must_use]
pub fn first_special(bytes: &[u8]) -> Option<usize> {
    let (pieces, _) = bytes.as_chunks::<BYTES_AT_ONCE>();
    let has_none =
        |piece: &&[u8; BYTES_AT_ONCE]| !piece.iter().fold(false, |any, byte| any | is_special(*byte));
    let passed = pieces.iter().take_while(has_none).count() * BYTES_AT_ONCE;
    bytes[passed..].iter().position(|byte| is_special(*byte)).map(|at| passed + at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    #[test]
    fn keeps_what_parsing_would_change() {
        assert_eq!(
            compact(r#"{"b": 1.10, "a": 12345678901234567890123}"#),
            r#"{"b":1.10,"a":12345678901234567890123}"#
        );
        assert_eq!(compact(r#"{"a b": "c: \" , d\\"}"#), r#"{"a b":"c: \" , d\\"}"#);
        assert_eq!(compact("[ 1,\n\t2 ]"), "[1,2]");
        assert_eq!(compact("\"ü — 漢\""), "\"ü — 漢\"");
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "\\PC*".prop_map(Value::from),
            "[ \\\\\"\n\t:,{}]{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::hash_map("[ a-z\"\\\\]{0,4}", inner, 0..5)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_first_special_byte_is_found(bytes in prop::collection::vec(prop_oneof![30 => b'#'..=b'[', 1 => any::<u8>()], 0..70)) {
            prop_assert_eq!(first_special(&bytes), bytes.iter().position(|byte| is_special(*byte)));
        }

        #[test]
        fn equals_the_compact_printer(value in json()) {
            let pretty = serde_json::to_string_pretty(&value).unwrap();
            prop_assert_eq!(compact(&pretty), serde_json::to_string(&value).unwrap());
        }

        #[test]
        fn is_the_same_in_place(text in prop_oneof![json().prop_map(|value| format!("{value:#}")), "[ \\\\\"a\n]{0,12}"]) {
            let mut compacted = text.clone().into_bytes();
            let length = compact_in_place(&mut compacted);
            compacted.truncate(length);
            prop_assert_eq!(length, compact_bytes(&text));
            prop_assert_eq!(String::from_utf8(compacted).unwrap(), compact(&text));
        }
    }
}
