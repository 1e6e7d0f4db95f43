//! What the headers of a record say of its event: the attributes of CloudEvents in binary mode (`ce_id`, …), and those of
//! Debezium's outbox router (`id`, `eventType`).
//!
//! Anybody may write headers, so nothing of them is an error: what cannot be read is left out.

use std::borrow::Cow;

use super::records::Headers;
use crate::delivery::lanes::Micros;

/// The attributes of an event.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Attributes<'a> {
    /// `ce_id`, or Debezium's `id`.
    pub event_id: Option<Cow<'a, str>>,
    /// `ce_type`, or Debezium's `eventType`.
    pub event_type: Option<Cow<'a, str>>,
    /// `ce_source`.
    pub event_source: Option<Cow<'a, str>>,
    /// `ce_time`.
    pub event_time: Option<Micros>,
    /// `content-type`, in any case.
    pub content_type: Option<Cow<'a, str>>,
}

impl<'a> Attributes<'a> {
    /// Reads them from the headers. Of a repeated header the last one counts, as Kafka's `lastHeader` has it.
    #[must_use]
    pub fn of(headers: Headers<'a>) -> Self {
        let mut found = Self::default();
        let (mut id, mut kind) = (None, None);
        for (name, value) in headers {
            let Some(value) = value else { continue };
            match name {
                b"ce_id" => found.event_id = Some(text(value)),
                b"ce_type" => found.event_type = Some(text(value)),
                b"ce_source" => found.event_source = Some(text(value)),
                b"ce_time" => found.event_time = time(&text(value)),
                b"id" => id = Some(unquoted(value)),
                b"eventType" => kind = Some(unquoted(value)),
                name if name.eq_ignore_ascii_case(b"content-type") => found.content_type = Some(text(value)),
                _ => {}
            }
        }
        found.event_id = found.event_id.or(id);
        found.event_type = found.event_type.or(kind);
        found
    }
}

/// The values of a header that may be repeated.
type Values<'a> = Vec<Option<Cow<'a, str>>>;

/// The headers as a JSON object. A repeated name has an array of its values.
#[must_use]
pub fn headers_json(headers: Headers<'_>) -> String {
    let mut names: Vec<(Cow<'_, str>, Values<'_>)> = Vec::new();
    let mut places = std::collections::HashMap::new();
    for (name, value) in headers {
        let name = text(name);
        let place = *places.entry(name.clone()).or_insert(names.len());
        if place == names.len() {
            names.push((name, Vec::new()));
        }
        names[place].1.push(value.map(text));
    }
    let mut json = String::from("{");
    for (name, values) in &names {
        if json.len() > 1 {
            json.push(',');
        }
        let encoded = match &values[..] {
            [value] => serde_json::to_string(value),
            several => serde_json::to_string(several),
        };
        json.push_str(&serde_json::to_string(name).unwrap_or_default());
        json.push(':');
        json.push_str(&encoded.unwrap_or_default());
    }
    json.push('}');
    json
}

/// The bytes as text that Postgres can hold: what is no UTF-8, and zero bytes, become U+FFFD.
#[must_use]
pub fn text(bytes: &[u8]) -> Cow<'_, str> {
    match plain_text(bytes) {
        Some(text) => Cow::Borrowed(text),
        None => Cow::Owned(String::from_utf8_lossy(bytes).replace('\0', "\u{fffd}")),
    }
}

/// The bytes as text, if Postgres can hold it as it is.
#[must_use]
pub fn plain_text(bytes: &[u8]) -> Option<&str> {
    // Most are too short for a search to be worth its preparation.
    let has_zero = bytes.iter().fold(false, |any, byte| any | (*byte == 0));
    std::str::from_utf8(bytes).ok().filter(|_| !has_zero)
}

/// As [`text`], without the quotes that Kafka Connect's JSON converter puts around strings.
fn unquoted(bytes: &[u8]) -> Cow<'_, str> {
    match bytes {
        [b'"', inner @ .., b'"'] if !inner.iter().any(|byte| matches!(byte, b'"' | b'\\')) => text(inner),
        other => text(other),
    }
}

/// A time in the form of RFC 3339, in microseconds since 1970.
fn time(text: &str) -> Option<Micros> {
    text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_microsecond)
}

#[cfg(test)]
mod tests {
    use super::super::records::{headers, pack_header};
    use super::*;

    type Pair = (&'static str, Option<&'static [u8]>);

    fn packed(pairs: &[Pair]) -> Vec<u8> {
        let mut packed = Vec::new();
        pairs.iter().for_each(|(name, value)| pack_header(&mut packed, name.as_bytes(), *value));
        packed
    }

    #[test]
    fn cloud_events_come_before_debezium() {
        let both = packed(&[
            ("id", Some(b"\"d1\"")),
            ("ce_id", Some(b"c1")),
            ("eventType", Some(b"\"Placed\"")),
            ("ce_source", Some(b"/shop")),
            ("ce_time", Some(b"2024-02-29T12:30:00.25+01:00")),
            ("Content-Type", Some(b"application/json")),
            ("ce_type", None),
        ]);
        let found = Attributes::of(headers(&both));
        assert_eq!(found.event_id.as_deref(), Some("c1"));
        assert_eq!(found.event_type.as_deref(), Some("Placed"));
        assert_eq!(found.event_source.as_deref(), Some("/shop"));
        assert_eq!(found.event_time, Some(1_709_206_200_250_000));
        assert_eq!(found.content_type.as_deref(), Some("application/json"));
        let debezium = packed(&[("id", Some(b"\"d1\""))]);
        assert_eq!(Attributes::of(headers(&debezium)).event_id.as_deref(), Some("d1"));
    }

    #[test]
    fn times_that_are_none_are_left_out() {
        assert_eq!(time("1970-01-01T00:00:00Z"), Some(0));
        for wrong in [
            "",
            "now",
            "2024-13-01T00:00:00Z",
            "2023-02-29T00:00:00Z",
            "2024-01-01T00:00:00",
            "99999-01-01T00:00:00Z",
        ] {
            assert_eq!(time(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn headers_are_an_object() {
        let pairs = packed(&[
            ("a", Some(b"1")),
            ("b", None),
            ("a", Some(b"\xff\0")),
            ("c\"", Some(b"")),
            ("a", None),
        ]);
        assert_eq!(
            headers_json(headers(&pairs)),
            "{\"a\":[\"1\",\"\u{fffd}\u{fffd}\",null],\"b\":null,\"c\\\"\":\"\"}"
        );
        assert_eq!(headers_json(headers(b"")), "{}");
    }
}
