//! Owns the parts of an event, and the checks of a new one.

use std::borrow::Cow;
use std::hash::BuildHasher;

use super::headers::{self, HeaderError};
use super::size::Size;
use super::topic;

/// The media type of a JSON payload. `emit()` sets it.
pub const JSON: &str = "application/json";

/// A stored event, as the relay reads it and the Kafka thread sends it. Parts that are stored uncompressed are borrowed from
/// the row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Event<'a> {
    /// Position in the outbox; events with the same topic and key are published in this order.
    pub id: i64,
    /// Stable identity, the same on every delivery.
    pub event_id: [u8; 16],
    /// When it was emitted, in microseconds since 1970-01-01 UTC.
    pub emitted_at: i64,
    /// The record's timestamp, in microseconds since 1970-01-01 UTC.
    pub record_time: i64,
    /// Destination topic.
    pub topic: &'a str,
    /// Destination partition, if the author chose one.
    pub partition: Option<i32>,
    /// Record key.
    pub key: Option<Cow<'a, [u8]>>,
    /// Record value; `None` is a tombstone.
    pub payload: Option<Cow<'a, [u8]>>,
    /// The author's headers, a JSON object.
    pub headers: Option<Cow<'a, str>>,
    /// CloudEvents `type`.
    pub event_type: Option<Cow<'a, str>>,
    /// Media type of the payload.
    pub content_type: Option<Cow<'a, str>>,
}

impl Event<'_> {
    /// The size of the event in bytes, by part.
    #[must_use]
    pub fn size(&self) -> Size {
        let text = |part: &Option<Cow<'_, str>>| part.as_ref().map_or(0, |text| text.len());
        let bytes = |part: &Option<Cow<'_, [u8]>>| part.as_ref().map_or(0, |bytes| bytes.len());
        Size {
            payload: bytes(&self.payload),
            key: bytes(&self.key),
            headers: self.headers.as_deref().map_or(0, headers::weigh),
            event_type: text(&self.event_type),
            content_type: text(&self.content_type),
        }
    }

    /// A hash of the content, valid within this process: different contents very probably have different hashes.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        foldhash::fast::FixedState::default().hash_one((
            self.emitted_at,
            self.topic,
            self.partition,
            &self.key,
            &self.payload,
            &self.headers,
            &self.event_type,
            &self.content_type,
        ))
    }

    /// How many bytes of the relay's memory the event takes while it is in flight. `size` is the event's own size.
    #[must_use]
    pub fn weight(&self, size: Size) -> usize {
        /// librdkafka's header, measured as resident memory per event in flight.
        const HEADER: usize = 80;
        // Commas separate headers and array elements. Commas inside values make the count too high, which does no harm.
        let commas = |json: &Cow<'_, str>| json.bytes().filter(|byte| *byte == b',').count();
        let headers = self.headers.as_ref().map_or(0, |json| commas(json) + 1);
        weight(size) + HEADER * headers
    }
}

/// How many bytes of the relay's memory an event of this size takes at least. It is counted twice: it is held as read until
/// the Kafka thread has taken it, and copied into librdkafka's queue.
#[must_use]
pub fn weight(size: Size) -> usize {
    /// librdkafka's message with its list of headers, and the relay's own entry: measured as resident memory
    /// per event in flight, less the event's own bytes.
    const OVERHEAD: usize = 900;
    OVERHEAD + 2 * size.total()
}

/// The parts of a new event that can be wrong.
#[derive(Debug, Clone, Copy)]
pub struct Draft<'a> {
    /// Destination topic.
    pub topic: Option<&'a str>,
    /// Destination partition.
    pub partition: Option<i32>,
    /// Length of the record key in bytes.
    pub key_bytes: Option<usize>,
    /// Length of the payload in bytes; `None` is a tombstone.
    pub payload_bytes: Option<usize>,
    /// Headers, a JSON object.
    pub headers: Option<&'a str>,
    /// Length of the CloudEvents `type` in bytes.
    pub event_type_bytes: Option<usize>,
    /// Media type of the payload, if the author gave one.
    pub content_type: Option<&'a str>,
    /// When it was emitted, in microseconds since 1970-01-01 UTC, if the author gave a time.
    pub emitted_at: Option<i64>,
}

/// 9999-12-31 23:59:59.999999 UTC in microseconds since 1970: the last time that RFC 3339 can express.
pub(super) const LAST_TIME: i64 = 253_402_300_799_999_999;

/// Why an event is invalid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invalid {
    /// No topic was given.
    NoTopic,
    /// Kafka would refuse the topic's name.
    Topic(String),
    /// The topic is Kafka's own.
    InternalTopic(String),
    /// The topic's name is too long. Holds its length in bytes.
    TopicTooLong(usize),
    /// The partition is negative.
    Partition(i32),
    /// A tombstone without a key has no effect.
    TombstoneWithoutKey,
    /// The CloudEvents type is empty.
    EmptyType,
    /// No record can have this time.
    Time,
    /// The headers cannot be sent.
    Headers(HeaderError),
    /// The payload is a jsonb so large that its text is certain to exceed the limit.
    JsonTooLarge {
        /// Bytes of the jsonb.
        bytes: usize,
        /// The limit in bytes, `event_outbox.max_event_bytes`.
        limit: usize,
    },
    /// The event exceeds the limit.
    TooLarge {
        /// Its size.
        size: Size,
        /// The limit in bytes, `event_outbox.max_event_bytes`.
        limit: usize,
    },
}

impl Draft<'_> {
    /// Checks everything that can be checked without Kafka.
    ///
    /// # Errors
    /// The first fault, as [`Invalid`].
    pub fn check(&self, max_event_bytes: usize) -> Result<(), Invalid> {
        let topic = self.topic.ok_or(Invalid::NoTopic)?;
        if topic.len() > topic::MAX_TOPIC_BYTES {
            return Err(Invalid::TopicTooLong(topic.len()));
        }
        if topic::is_internal(topic) {
            return Err(Invalid::InternalTopic(topic.to_owned()));
        }
        if !topic::is_valid(topic) {
            return Err(Invalid::Topic(topic.to_owned()));
        }
        if let Some(partition) = self.partition.filter(|p| *p < 0) {
            return Err(Invalid::Partition(partition));
        }
        if self.payload_bytes.is_none() && self.key_bytes.is_none() {
            return Err(Invalid::TombstoneWithoutKey);
        }
        if self.event_type_bytes == Some(0) {
            return Err(Invalid::EmptyType);
        }
        // Kafka's timestamps are not negative. CloudEvents writes times in the form of RFC 3339.
        if self.emitted_at.is_some_and(|time| !(0..=LAST_TIME).contains(&time)) {
            return Err(Invalid::Time);
        }
        let mut size = self.size();
        let too_large = |size: Size| Invalid::TooLarge { size, limit: max_event_bytes };
        // Check the size before any work on a text that is too large, and again once the headers' size as sent is known.
        if size.total() > max_event_bytes {
            return Err(too_large(size));
        }
        let Some(text) = self.headers else { return Ok(()) };
        size.headers = headers::check(text).map_err(Invalid::Headers)?.max(size.headers);
        if size.total() > max_event_bytes { Err(too_large(size)) } else { Ok(()) }
    }

    /// The size as far as it is known before the headers are read.
    fn size(&self) -> Size {
        Size {
            payload: self.payload_bytes.unwrap_or(0),
            key: self.key_bytes.unwrap_or(0),
            headers: self.headers.map_or(0, str::len),
            event_type: self.event_type_bytes.unwrap_or(0),
            // The content type that `emit()` sets does not count: the author did not give it. The same holds when the row is
            // inserted again.
            content_type: self.content_type.filter(|name| *name != JSON).map_or(0, str::len),
        }
    }
}

impl Invalid {
    /// The primary error message, for the author of the event.
    #[must_use]
    pub fn message(&self) -> String {
        match self {
            Self::NoTopic => "event topic must not be null".into(),
            Self::Topic(_) | Self::TopicTooLong(_) => "invalid event topic".into(),
            Self::InternalTopic(_) => "cannot emit events to an internal Kafka topic".into(),
            Self::Partition(_) => "event partition must not be negative".into(),
            Self::TombstoneWithoutKey => "event without a payload must have a key".into(),
            Self::EmptyType => "event type must not be empty".into(),
            Self::Time => "event time is out of range".into(),
            Self::Headers(HeaderError::NotAnObject) => "event headers must be a JSON object".into(),
            Self::Headers(HeaderError::EmptyName) => "event header names must not be empty".into(),
            Self::Headers(HeaderError::Reserved(name)) => format!("event header \"{name}\" is reserved"),
            Self::Headers(HeaderError::Unsendable) => "event headers contain text that cannot be sent".into(),
            Self::TooLarge { .. } | Self::JsonTooLarge { .. } => "event is too large".into(),
        }
    }

    /// The error detail.
    #[must_use]
    pub fn detail(&self) -> String {
        match self {
            Self::NoTopic => "Every event goes to a Kafka topic.".into(),
            Self::TopicTooLong(bytes) => {
                format!("The name has {bytes} bytes; Kafka allows {}.", topic::MAX_TOPIC_BYTES)
            }
            Self::Topic(name) => format!("Kafka does not accept \"{name}\" as a topic name."),
            Self::InternalTopic(name) => format!("Kafka uses topic \"{name}\" itself."),
            Self::Partition(partition) => format!("The partition is {partition}."),
            Self::TombstoneWithoutKey => {
                "A null payload is a tombstone: it tells Kafka to delete the records with the same key."
                    .into()
            }
            Self::EmptyType => "The CloudEvents attribute \"type\" must have at least one character.".into(),
            Self::Time => "The times of Kafka records and CloudEvents lie between 1970 and 9999.".into(),
            Self::Headers(HeaderError::NotAnObject) => {
                "Each member of the object becomes a record header.".into()
            }
            Self::Headers(HeaderError::EmptyName) => {
                "A member of the headers object has an empty name.".into()
            }
            Self::Headers(HeaderError::Reserved(_)) => {
                "Names that begin with \"ce_\" are CloudEvents attributes, which the outbox writes itself."
                    .into()
            }
            Self::Headers(HeaderError::Unsendable) => {
                "Text cannot contain half of a surrogate pair, and header names cannot contain \\u0000."
                    .into()
            }
            Self::JsonTooLarge { bytes, limit } => {
                format!(
                    "Its jsonb has {bytes} bytes, so its text exceeds event_outbox.max_event_bytes, which is {limit}."
                )
            }
            Self::TooLarge { size, limit } => {
                format!("It has {size}. event_outbox.max_event_bytes is {limit}.")
            }
        }
    }

    /// The hint: what the author can do.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::NoTopic => "Pass the name of the topic as the first argument.".into(),
            Self::Topic(_) | Self::TopicTooLong(_) => {
                "Use 1 to 249 letters, digits, dots, underscores and hyphens, other than \".\" and \"..\"."
                    .into()
            }
            Self::InternalTopic(_) => "Pass the name of a topic of your own.".into(),
            Self::Partition(_) => "Pass no partition to let the key choose one.".into(),
            Self::TombstoneWithoutKey => "Pass a key, or a payload.".into(),
            Self::EmptyType => "Pass no event type to use the topic's name.".into(),
            Self::Time => "Omit emitted_at to have it set to the present time.".into(),
            Self::Headers(HeaderError::Reserved(_)) => {
                "Choose another name, or use the arguments event_id and event_type.".into()
            }
            Self::Headers(_) => "Pass an object such as {\"trace\": \"7f\"}.".into(),
            Self::TooLarge { .. } | Self::JsonTooLarge { .. } => {
                "Store the data elsewhere and emit a reference to it, or raise event_outbox.max_event_bytes \
                 together with the limits of the broker and topic."
                    .into()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    const GOOD: Draft<'_> = Draft {
        topic: Some("orders"),
        partition: None,
        key_bytes: None,
        payload_bytes: Some(2),
        headers: None,
        event_type_bytes: None,
        content_type: None,
        emitted_at: None,
    };

    #[test]
    fn a_plain_event_is_valid() {
        assert_eq!(GOOD.check(10), Ok(()));
        assert_eq!(Draft { key_bytes: Some(1), payload_bytes: None, ..GOOD }.check(10), Ok(()));
        assert_eq!(Draft { partition: Some(0), headers: Some("{}"), ..GOOD }.check(4), Ok(()));
    }

    #[test]
    fn every_part_counts() {
        let full = Draft {
            key_bytes: Some(1),
            payload_bytes: Some(2),
            headers: Some("{\"a\":1}"),
            event_type_bytes: Some(4),
            content_type: Some("a/b"),
            ..GOOD
        };
        assert_eq!(full.check(17), Ok(()));
        let size = Size { payload: 2, key: 1, headers: 7, event_type: 4, content_type: 3 };
        assert_eq!(full.check(16), Err(Invalid::TooLarge { size, limit: 16 }));
        // `emit()` stores this content type, and `redrive()` inserts it again.
        assert_eq!(Draft { content_type: Some(JSON), ..full }.check(14), Ok(()));
    }

    #[test]
    fn each_fault_is_named() {
        let cases = [
            (Draft { topic: None, ..GOOD }, Invalid::NoTopic),
            (Draft { topic: Some("a b"), ..GOOD }, Invalid::Topic("a b".into())),
            (
                Draft { topic: Some("__consumer_offsets"), ..GOOD },
                Invalid::InternalTopic("__consumer_offsets".into()),
            ),
            (Draft { topic: Some(&"x".repeat(250)), ..GOOD }, Invalid::TopicTooLong(250)),
            (Draft { partition: Some(-1), ..GOOD }, Invalid::Partition(-1)),
            (Draft { payload_bytes: None, ..GOOD }, Invalid::TombstoneWithoutKey),
            (Draft { event_type_bytes: Some(0), ..GOOD }, Invalid::EmptyType),
            (Draft { emitted_at: Some(-1), ..GOOD }, Invalid::Time),
            (Draft { emitted_at: Some(i64::MAX), ..GOOD }, Invalid::Time),
            (Draft { headers: Some("[]"), ..GOOD }, Invalid::Headers(HeaderError::NotAnObject)),
            (
                Draft { headers: Some("{\"ce_id\": 1}"), ..GOOD },
                Invalid::Headers(HeaderError::Reserved("ce_id".into())),
            ),
            (
                Draft { payload_bytes: Some(90), headers: Some("{\"trace\":1}"), ..GOOD },
                Invalid::TooLarge { size: Size { payload: 90, headers: 11, ..Size::default() }, limit: 100 },
            ),
            (
                Draft { headers: Some("{\"trace\":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]}"), ..GOOD },
                Invalid::TooLarge { size: Size { payload: 2, headers: 120, ..Size::default() }, limit: 100 },
            ),
            (
                Draft { key_bytes: Some(usize::MAX / 4), ..GOOD },
                Invalid::TooLarge {
                    size: Size { payload: 2, key: usize::MAX / 4, ..Size::default() },
                    limit: 100,
                },
            ),
        ];
        for (draft, invalid) in cases {
            assert_eq!(draft.check(100), Err(invalid.clone()));
            for text in [invalid.message(), invalid.detail(), invalid.hint()] {
                assert!(!text.is_empty());
            }
            assert!(
                !invalid.message().ends_with('.')
                    && invalid.detail().ends_with('.')
                    && invalid.hint().ends_with('.')
            );
        }
    }
}
