//! What an event is, and what makes one invalid.

use std::borrow::Cow;

use crate::headers::{self, HeaderError};
use crate::topic;

/// A stored event, as the relay reads it and the Kafka side sends it, borrowed from where it lies as far as it lies there
/// in plain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Event<'a> {
    /// Position in the outbox; events with the same topic and key are published in this order.
    pub id: i64,
    /// Stable identity, the same on every delivery.
    pub event_id: [u8; 16],
    /// When it was emitted, in microseconds since 1970-01-01 UTC.
    pub emitted_at: i64,
    /// Destination.
    pub topic: &'a str,
    /// Destination partition, where the author chose one.
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
    /// What the event weighs in the relay's memory while it is in flight, in bytes: it is held as read until
    /// the Kafka thread has taken it, and copied into librdkafka's queue.
    #[must_use]
    pub fn weight(&self) -> usize {
        /// librdkafka's message with its list of headers, and the relay's ticket: measured as resident memory
        /// per event in flight, less the event's own bytes.
        const OVERHEAD: usize = 900;
        /// librdkafka's header, measured in the same way.
        const HEADER: usize = 80;
        let bytes: usize = [&self.key, &self.payload].into_iter().flatten().map(|bytes| bytes.len()).sum();
        let texts = [&self.headers, &self.event_type, &self.content_type];
        let text: usize = texts.into_iter().flatten().map(|text| text.len()).sum();
        // Commas part headers and their values; those within values make it too many, which does no harm.
        let commas = |json: &Cow<'_, str>| json.bytes().filter(|byte| *byte == b',').count();
        let headers = self.headers.as_ref().map_or(0, |json| commas(json) + 1);
        OVERHEAD + 2 * (bytes + text) + HEADER * headers
    }
}

/// The parts of a new event that can be wrong.
#[derive(Debug, Clone, Copy)]
pub struct Draft<'a> {
    /// Destination topic.
    pub topic: Option<&'a str>,
    /// Destination partition.
    pub partition: Option<i32>,
    /// Record key.
    pub key: Option<&'a [u8]>,
    /// Length of the payload in bytes; `None` is a tombstone.
    pub payload_bytes: Option<usize>,
    /// Headers, a JSON object.
    pub headers: Option<&'a str>,
    /// CloudEvents `type`.
    pub event_type: Option<&'a str>,
    /// When it was emitted, in microseconds since 1970-01-01 UTC, where the author says so.
    pub emitted_at: Option<i64>,
}

/// 9999-12-31 23:59:59.999999 UTC, the last time that RFC 3339 can write, in microseconds since 1970.
const LAST_TIME: i64 = 253_402_300_799_999_999;

/// Why an event cannot be accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invalid {
    /// No topic was given.
    NoTopic,
    /// Kafka would refuse the topic's name.
    Topic(String),
    /// A partition below zero.
    Partition(i32),
    /// A tombstone without a key marks nothing.
    TombstoneWithoutKey,
    /// An empty CloudEvents type.
    EmptyType,
    /// A time that no record can have.
    Time,
    /// The headers cannot be sent.
    Headers(HeaderError),
    /// Payload and headers together exceed the limit, both in bytes.
    TooLarge {
        /// Bytes of payload and headers.
        bytes: usize,
        /// The limit, `event_outbox.max_event_bytes`.
        limit: usize,
    },
}

impl Draft<'_> {
    /// Checks everything that can be known before Kafka is asked.
    ///
    /// # Errors
    /// The first thing wrong, as [`Invalid`].
    pub fn check(&self, max_event_bytes: usize) -> Result<(), Invalid> {
        let topic = self.topic.ok_or(Invalid::NoTopic)?;
        if !topic::is_valid(topic) {
            return Err(Invalid::Topic(topic.to_owned()));
        }
        if let Some(partition) = self.partition.filter(|p| *p < 0) {
            return Err(Invalid::Partition(partition));
        }
        if self.payload_bytes.is_none() && self.key.is_none() {
            return Err(Invalid::TombstoneWithoutKey);
        }
        if self.event_type.is_some_and(str::is_empty) {
            return Err(Invalid::EmptyType);
        }
        // Kafka's timestamps are not negative; CloudEvents' are written as RFC 3339 has it.
        if self.emitted_at.is_some_and(|time| !(0..=LAST_TIME).contains(&time)) {
            return Err(Invalid::Time);
        }
        let bytes = self.payload_bytes.unwrap_or(0) + self.headers.map_or(0, str::len);
        if bytes > max_event_bytes {
            return Err(Invalid::TooLarge { bytes, limit: max_event_bytes });
        }
        if let Some(text) = self.headers {
            headers::parse(text).map_err(Invalid::Headers)?;
        }
        Ok(())
    }
}

impl Invalid {
    /// One sentence for the author of the event, without a full stop, as Postgres words its errors.
    #[must_use]
    pub fn message(&self) -> String {
        match self {
            Self::NoTopic => "event topic must not be null".into(),
            Self::Topic(_) => "invalid event topic".into(),
            Self::Partition(_) => "event partition must not be negative".into(),
            Self::TombstoneWithoutKey => "an event without payload needs a key".into(),
            Self::EmptyType => "event type must not be empty".into(),
            Self::Time => "time of the event is out of range".into(),
            Self::Headers(HeaderError::NotAnObject) => "event headers must be a JSON object".into(),
            Self::Headers(HeaderError::EmptyName) => "event header names must not be empty".into(),
            Self::Headers(HeaderError::Reserved(name)) => format!("event header \"{name}\" is reserved"),
            Self::Headers(HeaderError::Unsendable) => "event headers hold text that cannot be sent".into(),
            Self::TooLarge { .. } => "event is too large".into(),
        }
    }

    /// What exactly was found.
    #[must_use]
    pub fn detail(&self) -> String {
        match self {
            Self::NoTopic => "Every event goes to a Kafka topic.".into(),
            Self::Topic(name) if name.len() > topic::MAX_TOPIC_BYTES => {
                format!("The name has {} bytes; Kafka allows {}.", name.len(), topic::MAX_TOPIC_BYTES)
            }
            Self::Topic(name) => format!("Kafka does not accept \"{name}\" as a topic name."),
            Self::Partition(partition) => format!("Partition is {partition}."),
            Self::TombstoneWithoutKey => {
                "A null payload is a tombstone: it tells Kafka to forget the record with the same key.".into()
            }
            Self::EmptyType => {
                "It is sent as the CloudEvents attribute \"type\", which has at least one character.".into()
            }
            Self::Time => "A Kafka record and a CloudEvent have a time from 1970 to 9999.".into(),
            Self::Headers(HeaderError::NotAnObject) => {
                "Each member of the object becomes a record header.".into()
            }
            Self::Headers(HeaderError::EmptyName) => {
                "A member of the headers object has the name \"\".".into()
            }
            Self::Headers(HeaderError::Reserved(_)) => {
                "Names that begin with \"ce_\" are CloudEvents attributes, which the outbox writes itself."
                    .into()
            }
            Self::Headers(HeaderError::Unsendable) => {
                "Half of a surrogate pair is no character, and a header's name cannot hold \\u0000.".into()
            }
            Self::TooLarge { bytes, limit } => {
                format!("Payload and headers have {bytes} bytes; event_outbox.max_event_bytes is {limit}.")
            }
        }
    }

    /// What the author can do.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::NoTopic => "Pass the name of the topic as the first argument.".into(),
            Self::Topic(_) => {
                "Use 1 to 249 letters, digits, dots, underscores and hyphens, other than \".\" and \"..\"."
                    .into()
            }
            Self::Partition(_) => "Pass no partition to let the key choose one.".into(),
            Self::TombstoneWithoutKey => "Pass a key, or a payload.".into(),
            Self::EmptyType => "Pass no event type to use the topic's name.".into(),
            Self::Time => "Leave emitted_at out to have it set.".into(),
            Self::Headers(HeaderError::Reserved(_)) => {
                "Choose another name, or use the arguments event_id and event_type.".into()
            }
            Self::Headers(_) => "Pass an object such as {\"trace\": \"7f\"}.".into(),
            Self::TooLarge { .. } => {
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
        key: None,
        payload_bytes: Some(2),
        headers: None,
        event_type: None,
        emitted_at: None,
    };

    #[test]
    fn a_plain_event_is_valid() {
        assert_eq!(GOOD.check(10), Ok(()));
        assert_eq!(Draft { key: Some(b"7"), payload_bytes: None, ..GOOD }.check(10), Ok(()));
        assert_eq!(Draft { partition: Some(0), headers: Some("{}"), ..GOOD }.check(4), Ok(()));
    }

    #[test]
    fn each_fault_is_named() {
        let cases = [
            (Draft { topic: None, ..GOOD }, Invalid::NoTopic),
            (Draft { topic: Some("a b"), ..GOOD }, Invalid::Topic("a b".into())),
            (Draft { partition: Some(-1), ..GOOD }, Invalid::Partition(-1)),
            (Draft { payload_bytes: None, ..GOOD }, Invalid::TombstoneWithoutKey),
            (Draft { event_type: Some(""), ..GOOD }, Invalid::EmptyType),
            (Draft { emitted_at: Some(-1), ..GOOD }, Invalid::Time),
            (Draft { emitted_at: Some(i64::MAX), ..GOOD }, Invalid::Time),
            (Draft { headers: Some("[]"), ..GOOD }, Invalid::Headers(HeaderError::NotAnObject)),
            (
                Draft { headers: Some("{\"ce_id\": 1}"), ..GOOD },
                Invalid::Headers(HeaderError::Reserved("ce_id".into())),
            ),
            (
                Draft { payload_bytes: Some(90), headers: Some("{\"trace\":1}"), ..GOOD },
                Invalid::TooLarge { bytes: 101, limit: 100 },
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
