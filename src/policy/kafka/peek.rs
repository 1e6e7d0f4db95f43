//! Owns the request to look at the records of a partition, and what an answer shows of them.
//!
//! The answer crosses from one process to another, and has a limited size. Bytes are in hexadecimal, because keys and
//! values need not be text.

use std::fmt::Write;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::inbox::attributes::headers_json;
use crate::inbox::records::{self, RecordRef};

/// The most bytes of the records of an answer, as JSON.
pub const ROOM: usize = 120 * 1024;

/// The most bytes of a record besides its key, value and headers.
const FRAME: usize = 256;

/// The records to look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peek {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset of the first record, if Kafka has one there, or of the next one that it has.
    pub offset: i64,
    /// How many records, at most.
    pub max: usize,
}

/// Records of a partition, in their order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peeked {
    /// The records: fewer than were asked for if there is no room for more.
    pub records: Vec<PeekedRecord>,
    /// Whether Kafka has no more of them.
    pub at_end: bool,
}

/// What an answer shows of a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeekedRecord {
    /// Its offset.
    pub offset: i64,
    /// Its timestamp, in milliseconds since 1970.
    pub timestamp_ms: Option<i64>,
    /// Its key, in hexadecimal.
    pub key: Option<String>,
    /// Its value, in hexadecimal; `None` for a tombstone.
    pub value: Option<String>,
    /// Its headers, as an object; `None` if they were too long.
    pub headers: Option<Value>,
    /// The key or the value ends early, or the headers are missing, because the record is too long for an answer.
    pub truncated: bool,
}

impl Peeked {
    /// The first `max` of these records, as far as an answer has room for them: at least one, if there is one. `at_end`
    /// says whether Kafka has no more.
    #[must_use]
    pub fn new<'a>(found: impl IntoIterator<Item = RecordRef<'a>>, max: usize, at_end: bool) -> Self {
        let mut room = ROOM;
        let mut records = Vec::new();
        for record in found {
            let record = PeekedRecord::new(record);
            // A comma separates it from the next one.
            let length = serde_json::to_string(&record).map_or(ROOM, |json| json.len() + 1);
            if records.len() == max || length > room {
                return Self { records, at_end: false };
            }
            room -= length;
            records.push(record);
        }
        Self { records, at_end }
    }
}

impl PeekedRecord {
    /// Shows the record, or as much of it as fits into an answer by itself.
    fn new(record: RecordRef<'_>) -> Self {
        // A short key and short headers are whole, however long the value is.
        let (key, key_is_whole) = hex(record.key, ROOM / 4);
        let headers = (record.headers.len() <= ROOM / 2)
            .then(|| headers_json(records::headers(record.headers)))
            .filter(|json| json.len() <= ROOM / 2);
        let taken = FRAME + key.as_ref().map_or(0, String::len) + headers.as_ref().map_or(0, String::len);
        let (value, value_is_whole) = hex(record.value, ROOM - taken);
        Self {
            offset: record.offset,
            timestamp_ms: record.timestamp_ms,
            key,
            value,
            truncated: !(key_is_whole && value_is_whole && headers.is_some()),
            headers: headers.and_then(|json| serde_json::from_str(&json).ok()),
        }
    }
}

/// The bytes in hexadecimal, with at most `room` digits, and whether these are all.
fn hex(bytes: Option<&[u8]>, room: usize) -> (Option<String>, bool) {
    let Some(bytes) = bytes else { return (None, true) };
    let shown = &bytes[..bytes.len().min(room / 2)];
    let mut digits = String::with_capacity(2 * shown.len());
    for byte in shown {
        // Writing to a string does not fail.
        let _ = write!(digits, "{byte:02x}");
    }
    (Some(digits), shown.len() == bytes.len())
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    use super::*;
    use crate::inbox::records::pack_header;

    fn record<'a>(key: Option<&'a [u8]>, value: Option<&'a [u8]>, headers: &'a [u8]) -> RecordRef<'a> {
        RecordRef { partition: 0, offset: 7, timestamp_ms: Some(1), key, value, headers }
    }

    fn packed(name: &[u8], value: &[u8]) -> Vec<u8> {
        let mut headers = Vec::new();
        pack_header(&mut headers, name, Some(value));
        headers
    }

    #[test]
    fn a_record_is_shown_whole() {
        let headers = packed(b"a", b"1");
        let shown = Peeked::new([record(Some(b"\0k"), None, &headers)], 1, true);
        let expected = PeekedRecord {
            offset: 7,
            timestamp_ms: Some(1),
            key: Some("006b".into()),
            value: None,
            headers: Some(serde_json::json!({"a": "1"})),
            truncated: false,
        };
        assert_eq!(shown, Peeked { records: vec![expected], at_end: true });
    }

    #[test]
    fn no_more_are_shown_than_asked_for_or_fit() {
        let three = [record(None, Some(b"v"), &[]); 3];
        assert_eq!(Peeked::new(three, 3, true), Peeked { at_end: true, ..Peeked::new(three, 3, false) });
        let two = Peeked::new(three, 2, true);
        assert_eq!((two.records.len(), two.at_end), (2, false));
        let half = vec![1; ROOM / 5];
        let long = Peeked::new([record(None, Some(&half), &[]); 3], 3, true);
        assert_eq!((long.records.len(), long.at_end, long.records[0].truncated), (2, false, false));
    }

    #[test]
    fn a_record_that_is_too_long_ends_early() {
        let long = vec![1; ROOM];
        let shown = Peeked::new([record(Some(b"k"), Some(&long), &packed(b"a", b"1"))], 1, false);
        let [only] = &shown.records[..] else { panic!("{shown:?}") };
        assert!(only.truncated && only.headers.is_some() && only.key.as_deref() == Some("6b"));
        assert!(only.value.as_ref().is_some_and(|value| value.len() > ROOM / 2));
        // Control characters are long in JSON.
        let shown = Peeked::new([record(Some(&long), None, &packed(b"a", &vec![1; ROOM / 8]))], 1, false);
        assert!(shown.records[0].truncated && shown.records[0].headers.is_none());
    }

    proptest! {
        #[test]
        fn an_answer_has_room(
            parts in vec((option::of(0..2 * ROOM), option::of(0..2 * ROOM), 0..ROOM), 0..4), max in 0_usize..4
        ) {
            let bytes = vec![1; 2 * ROOM];
            let headers: Vec<_> = parts.iter().map(|(_, _, length)| packed(b"h", &bytes[..*length])).collect();
            let found = parts.iter().zip(&headers).map(|((key, value, _), headers)| {
                record(key.map(|length| &bytes[..length]), value.map(|length| &bytes[..length]), headers)
            });
            let shown = Peeked::new(found, max, true);
            prop_assert!(serde_json::to_string(&shown.records).unwrap().len() <= ROOM + 2);
            prop_assert_eq!(shown.records.is_empty(), parts.is_empty() || max == 0);
            prop_assert_eq!(shown.at_end, shown.records.len() == parts.len());
        }
    }
}
