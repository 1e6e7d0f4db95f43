//! Owns the envelope of a record: CloudEvents 1.0 as its Kafka protocol binding has them, in binary or structured content mode,
//! or what Debezium's outbox event router writes.

use std::collections::TryReserveError;

use jiff::Timestamp;
use uuid::Uuid;

use super::draft::Event;
use super::headers::CONTENT_TYPE;
use super::router::{self, AdditionalFields};
use super::structured::SPEC_VERSION;
use super::{headers, structured};

/// The limit of a source in bytes. The source is sent with every event, and does not count towards an event's size.
pub const MAX_SOURCE_BYTES: usize = 1000;

/// What is written around an event, in addition to its own parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Envelope {
    /// CloudEvents attributes as record headers, with this `source` (a URI-reference).
    CloudEvents {
        /// Sent as `ce_source`.
        source: String,
    },
    /// The whole CloudEvent as the record's value, in JSON, with this `source`.
    Structured {
        /// The attribute `source`.
        source: String,
    },
    /// The headers of Debezium's outbox event router.
    Router(AdditionalFields),
    /// No further headers.
    None,
}

impl Envelope {
    /// Puts the event into the form in which it is sent. Afterwards its payload is the record's value.
    ///
    /// # Errors
    /// Memory is short. The event is as it was.
    pub fn wrap(&self, event: &mut Event<'_>) -> Result<(), TryReserveError> {
        match self {
            Self::Structured { source } => structured::wrap(event, source),
            Self::CloudEvents { .. } | Self::Router(_) | Self::None => Ok(()),
        }
    }

    /// How many bytes of the event's parts are sent a second time, in headers.
    #[must_use]
    pub fn repeated_bytes(&self, event: &Event<'_>) -> usize {
        match self {
            Self::Router(fields) => fields.repeated_bytes(event),
            Self::CloudEvents { .. } | Self::Structured { .. } | Self::None => 0,
        }
    }

    /// Writes all headers of a wrapped event in their order: first the envelope's, then the author's.
    ///
    /// A `content-type` header of the author's replaces the stored content type. In structured mode it is the data's.
    pub fn write(&self, event: &Event<'_>, mut put: impl FnMut(&str, Option<&[u8]>)) {
        // Stored headers were checked when they were inserted. A hand-made row that slipped through is sent without its
        // headers.
        let own = event.headers.as_deref().map(headers::parse).and_then(Result::ok).unwrap_or_default();
        let mut reserved = None;
        match self {
            Self::CloudEvents { source } => binary(event, source, &own, &mut put),
            // A tombstone has no value that could hold the attributes.
            Self::Structured { source } if event.payload.is_none() => binary(event, source, &own, &mut put),
            Self::Structured { .. } => {
                put(CONTENT_TYPE, event.content_type.as_deref().map(str::as_bytes));
                reserved = Some(CONTENT_TYPE);
            }
            Self::Router(fields) => {
                fields.write(event, &mut put);
                reserved = Some(router::ID);
            }
            Self::None => {}
        }
        own.each(|name, value| {
            if !reserved.is_some_and(|reserved| name.eq_ignore_ascii_case(reserved)) {
                put(name, value.map(str::as_bytes));
            }
        });
    }
}

/// A time of an event, in microseconds since 1970, as CloudEvents write it; `None` if no calendar has it.
#[must_use]
pub fn time(micros: i64) -> Option<String> {
    Timestamp::from_microsecond(micros).ok().map(|time| time.to_string())
}

/// Writes the headers of the binary content mode.
fn binary(
    event: &Event<'_>,
    source: &str,
    own: &headers::Headers<'_>,
    put: &mut impl FnMut(&str, Option<&[u8]>),
) {
    let mut id = Uuid::encode_buffer();
    let id = Uuid::from_bytes(event.event_id).hyphenated().encode_lower(&mut id);
    put("ce_specversion", Some(SPEC_VERSION.as_bytes()));
    put("ce_id", Some(id.as_bytes()));
    put("ce_source", Some(source.as_bytes()));
    put("ce_type", Some(event.event_type.as_deref().unwrap_or(event.topic).as_bytes()));
    if let Some(time) = time(event.emitted_at) {
        put("ce_time", Some(time.as_bytes()));
    }
    if let Some(content_type) = &event.content_type
        && !own.has(CONTENT_TYPE)
    {
        put(CONTENT_TYPE, Some(content_type.as_bytes()));
    }
}

/// The default `ce_source`: a URI of the cluster and the database. `cluster` is the cluster's name, or
/// its system identifier if it has no name.
#[must_use]
pub fn default_source(cluster: &str, database: &str) -> String {
    format!("postgresql://{}/{}", percent_encode(cluster), percent_encode(database))
}

/// Encodes all but RFC 3986's unreserved characters.
fn percent_encode(text: &str) -> String {
    use std::fmt::Write;
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::borrow::Cow;

    fn event() -> Event<'static> {
        Event {
            event_id: *Uuid::parse_str("018f4e9c-7b1a-7000-8000-0123456789ab").unwrap().as_bytes(),
            emitted_at: 1_700_000_000_123_456,
            topic: "orders",
            payload: Some(Cow::Borrowed(b"{}")),
            headers: Some(r#"{"trace": "7f", "none": null}"#.into()),
            content_type: Some("application/json".into()),
            ..Event::default()
        }
    }

    fn written(envelope: &Envelope, event: &Event<'_>) -> Vec<(String, Option<String>)> {
        let mut out = Vec::new();
        envelope.write(event, |name, value| {
            out.push((name.to_owned(), value.map(|v| String::from_utf8(v.to_vec()).unwrap())));
        });
        out
    }

    fn pair(name: &str, value: &str) -> (String, Option<String>) {
        (name.into(), Some(value.into()))
    }

    #[test]
    fn cloudevents_come_first_and_the_topic_stands_in_for_the_type() {
        let envelope = Envelope::CloudEvents { source: "postgresql://main/shop".into() };
        assert_eq!(
            written(&envelope, &event()),
            vec![
                pair("ce_specversion", "1.0"),
                pair("ce_id", "018f4e9c-7b1a-7000-8000-0123456789ab"),
                pair("ce_source", "postgresql://main/shop"),
                pair("ce_type", "orders"),
                pair("ce_time", "2023-11-14T22:13:20.123456Z"),
                pair("content-type", "application/json"),
                pair("trace", "7f"),
                ("none".into(), None),
            ]
        );
    }

    #[test]
    fn the_authors_content_type_wins() {
        let envelope = Envelope::CloudEvents { source: "x".into() };
        let event = Event {
            headers: Some(r#"{"Content-Type": "text/plain"}"#.into()),
            event_type: Some("t".into()),
            ..event()
        };
        let names = written(&envelope, &event);
        assert!(names.contains(&pair("Content-Type", "text/plain")) && names.contains(&pair("ce_type", "t")));
        assert!(!names.iter().any(|(name, _)| name == "content-type"));
    }

    #[test]
    fn no_envelope_leaves_the_authors_headers() {
        assert_eq!(written(&Envelope::None, &event()), vec![pair("trace", "7f"), ("none".into(), None)]);
        assert_eq!(written(&Envelope::None, &Event { headers: None, ..event() }), vec![]);
    }

    #[test]
    fn a_structured_event_has_one_content_type() {
        let envelope = Envelope::Structured { source: "/shop".into() };
        let mut event =
            Event { headers: Some(r#"{"Content-Type": "text/plain", "a": "1"}"#.into()), ..event() };
        envelope.wrap(&mut event).unwrap();
        assert_eq!(
            written(&envelope, &event),
            [pair("content-type", "application/cloudevents+json; charset=UTF-8"), pair("a", "1")]
        );
        let tombstone = Event { payload: None, content_type: None, headers: None, ..event };
        assert_eq!(
            written(&envelope, &tombstone),
            written(&Envelope::CloudEvents { source: "/shop".into() }, &tombstone)
        );
    }

    #[test]
    fn the_routers_id_is_the_outboxs_own() {
        let event = Event { headers: Some(r#"{"id": "mine", "x": null, "ID": "mine"}"#.into()), ..event() };
        let id = pair("id", "018f4e9c-7b1a-7000-8000-0123456789ab");
        assert_eq!(written(&Envelope::Router(AdditionalFields::default()), &event), [id, ("x".into(), None)]);
    }

    #[test]
    fn the_source_is_a_uri() {
        assert_eq!(default_source("main", "Größe 1"), "postgresql://main/Gr%C3%B6%C3%9Fe%201");
    }
}
