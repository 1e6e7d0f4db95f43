//! Owns the JSON event format of CloudEvents 1.0, which a record in structured content mode has as its value.

use std::borrow::Cow;
use std::collections::TryReserveError;
use std::io;

use jiff::Timestamp;
use serde::de::IgnoredAny;
use uuid::Uuid;

use super::draft::Event;
use super::headers::{self, CONTENT_TYPE};
use crate::base64;

/// The version of CloudEvents.
pub const SPEC_VERSION: &str = "1.0";

/// The content type of the records.
pub const MEDIA_TYPE: &str = "application/cloudevents+json";

/// The content type with which they are sent.
const SENT_AS: &str = "application/cloudevents+json; charset=UTF-8";

/// JSON that is nested more deeply is carried as bytes: parsers use memory for each level.
const DEEPEST: usize = 10_000;

/// Replaces the event's payload by the whole event as JSON. A tombstone stays one: a document would not delete anything.
///
/// # Errors
/// Memory is short. The event is as it was.
pub fn wrap(event: &mut Event<'_>, source: &str) -> Result<(), TryReserveError> {
    if event.payload.is_some() {
        let document = document(event, source)?;
        event.payload = Some(Cow::Owned(document));
        event.content_type = Some(Cow::Borrowed(SENT_AS));
    }
    Ok(())
}

fn document(event: &Event<'_>, source: &str) -> Result<Vec<u8>, TryReserveError> {
    let own = event.headers.as_deref().map(headers::parse).and_then(Result::ok).unwrap_or_default();
    let mut content_type = event.content_type.as_deref().map(Cow::Borrowed);
    own.each(|name, value| {
        if let Some(value) = value.filter(|_| name.eq_ignore_ascii_case(CONTENT_TYPE)) {
            content_type = Some(Cow::Owned(value.to_owned()));
        }
    });
    let content_type = content_type.as_deref();
    let mut out = Document::default();
    let mut id = Uuid::encode_buffer();
    let id = Uuid::from_bytes(event.event_id).hyphenated().encode_lower(&mut id);
    out.raw(b"{\"specversion\":")?;
    out.text(SPEC_VERSION)?;
    out.member("id", id)?;
    out.member("source", source)?;
    out.member("type", event.event_type.as_deref().unwrap_or(event.topic))?;
    if let Ok(time) = Timestamp::from_microsecond(event.emitted_at) {
        out.member("time", &time.to_string())?;
    }
    if let Some(content_type) = content_type {
        out.member("datacontenttype", content_type)?;
    }
    let payload = event.payload.as_deref().unwrap_or_default();
    if content_type.is_some_and(is_json_type) && is_json(payload) {
        out.raw(b",\"data\":")?;
        out.raw(payload)?;
    } else {
        out.raw(b",\"data_base64\":\"")?;
        base64::encode(payload, &mut out.bytes)?;
        out.raw(b"\"")?;
    }
    out.raw(b"}")?;
    Ok(out.bytes)
}

/// Whether a media type says that a document is JSON.
#[must_use]
pub fn is_json_type(content_type: &str) -> bool {
    let name = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    matches!(&*name, "application/json" | "text/json") || name.ends_with("+json")
}

/// Whether the bytes are a JSON text that a document can carry as it is.
fn is_json(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    is_flat(bytes) && serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// Whether no more than [`DEEPEST`] brackets are open at any place. Brackets in strings count as well, so a flat text may pass
/// for a deep one.
fn is_flat(bytes: &[u8]) -> bool {
    let mut depth = 0_usize;
    bytes.iter().all(|byte| {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth <= DEEPEST
    })
}

/// A JSON text that grows as far as there is memory.
#[derive(Default)]
struct Document {
    bytes: Vec<u8>,
    /// Why serde_json could not write: its error does not say.
    short: Option<TryReserveError>,
}

impl Document {
    fn raw(&mut self, bytes: &[u8]) -> Result<(), TryReserveError> {
        self.bytes.try_reserve(bytes.len())?;
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn text(&mut self, text: &str) -> Result<(), TryReserveError> {
        // Nothing but memory can be missing.
        let _ = serde_json::to_writer(&mut *self, text);
        self.short.take().map_or(Ok(()), Err)
    }

    fn member(&mut self, name: &str, value: &str) -> Result<(), TryReserveError> {
        self.raw(b",")?;
        self.text(name)?;
        self.raw(b":")?;
        self.text(value)
    }
}

impl io::Write for Document {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.raw(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(error) => {
                self.short = Some(error);
                Err(io::ErrorKind::OutOfMemory.into())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(payload: &'static [u8], content_type: Option<&'static str>) -> Event<'static> {
        Event {
            event_id: *Uuid::parse_str("018f4e9c-7b1a-7000-8000-0123456789ab").unwrap().as_bytes(),
            emitted_at: 1_700_000_000_123_456,
            topic: "orders",
            payload: Some(Cow::Borrowed(payload)),
            content_type: content_type.map(Cow::Borrowed),
            ..Event::default()
        }
    }

    fn wrapped(mut event: Event<'_>) -> String {
        wrap(&mut event, "/shop").unwrap();
        assert_eq!(event.content_type.as_deref(), Some("application/cloudevents+json; charset=UTF-8"));
        String::from_utf8(event.payload.unwrap().into_owned()).unwrap()
    }

    const START: &str =
        r#"{"specversion":"1.0","id":"018f4e9c-7b1a-7000-8000-0123456789ab","source":"/shop","#;

    #[test]
    fn json_is_carried_as_it_is() {
        let json = event(br#"{"a":1.10,"b":[]}"#, Some("application/json"));
        assert_eq!(
            wrapped(json),
            format!(
                r#"{START}"type":"orders","time":"2023-11-14T22:13:20.123456Z","datacontenttype":"application/json","data":{{"a":1.10,"b":[]}}}}"#
            )
        );
    }

    #[test]
    fn anything_else_is_base64() {
        let cases: [(&[u8], _, &str); 5] = [
            (b"\xff\0", Some("application/x-protobuf"), "\"data_base64\":\"/wA=\"}"),
            (b"1", None, "\"data_base64\":\"MQ==\"}"),
            (b"{", Some("application/json"), "\"data_base64\":\"ew==\"}"),
            (b"", Some("application/json"), "\"data_base64\":\"\"}"),
            (b"1", Some("Application/Vnd.Shop+JSON; charset=utf-8"), "\"data\":1}"),
        ];
        for (payload, content_type, end) in cases {
            let found = wrapped(event(payload, content_type));
            assert!(found.ends_with(end), "{found}");
            assert_eq!(found.contains("datacontenttype"), content_type.is_some());
        }
    }

    #[test]
    fn deep_json_is_base64() {
        let deep = |levels: usize| ["[".repeat(levels), "]".repeat(levels)].concat().into_bytes();
        assert!(is_json(&deep(DEEPEST)) && !is_json(&deep(DEEPEST + 1)));
    }

    #[test]
    fn the_authors_content_type_is_that_of_the_data() {
        let own = Event {
            headers: Some(r#"{"Content-Type":"application/json","x":"1"}"#.into()),
            event_type: Some("Placed \"now\"\u{1}".into()),
            ..event(b"[1]", Some("a/b"))
        };
        let found = wrapped(own);
        assert!(found.contains(r#""type":"Placed \"now\"\u0001""#), "{found}");
        assert!(found.ends_with(r#""datacontenttype":"application/json","data":[1]}"#), "{found}");
    }

    #[test]
    fn a_tombstone_stays_one() {
        let mut tombstone = Event { payload: None, content_type: None, ..event(b"", None) };
        let before = tombstone.clone();
        wrap(&mut tombstone, "/shop").unwrap();
        assert_eq!(tombstone, before);
    }
}
