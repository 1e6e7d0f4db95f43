//! Reads CloudEvents in structured content mode, whose record's value is the whole event in JSON, as if they had come in binary
//! mode: the attributes as headers, the data as the value.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::records::{Headers, pack_header};
use crate::base64;
use crate::event::structured::{MEDIA_TYPE, is_json_type};

const CONTENT_TYPE: &[u8] = b"content-type";

/// How much memory reading an event takes, as a multiple of the size of its record: the headers and the value, each once more.
pub const MEMORY: usize = 3;

/// What a record in structured mode says of its event.
#[derive(Debug, PartialEq, Eq)]
pub struct Unfolded<'a> {
    /// The record's headers, and behind them the attributes under the names that they have in binary mode; packed.
    pub headers: Vec<u8>,
    /// The data.
    pub payload: Option<Cow<'a, [u8]>>,
    /// The media type of the data.
    pub content_type: Option<String>,
}

/// Whether a record claims to be in structured mode.
#[must_use]
pub fn is_structured(headers: Headers<'_>) -> bool {
    let content_type = headers.filter(|(name, _)| name.eq_ignore_ascii_case(CONTENT_TYPE)).last();
    content_type.and_then(|(_, value)| std::str::from_utf8(value?).ok()).is_some_and(|value| {
        value.split(';').next().is_some_and(|name| name.trim().eq_ignore_ascii_case(MEDIA_TYPE))
    })
}

/// Reads the event from the value of a record in structured mode with these packed headers. Nothing if the value is none.
#[must_use]
pub fn unfold<'a>(packed: &[u8], value: &'a [u8]) -> Option<Unfolded<'a>> {
    let text = std::str::from_utf8(value).ok()?;
    let mut event = Event::default();
    event.headers.try_reserve(packed.len().checked_add(text.len())?).ok()?;
    event.headers.extend_from_slice(packed);
    let mut json = serde_json::Deserializer::from_str(text);
    let read = json.deserialize_map(Members(&mut event)).ok()?;
    json.end().ok()?;
    let (has_id, data) = (read, event.payload()?);
    has_id.then_some(Unfolded { headers: event.headers, payload: data, content_type: event.content_type })
}

/// The members of the document, as far as they are read.
#[derive(Default)]
struct Event<'a> {
    headers: Vec<u8>,
    content_type: Option<String>,
    data: Option<&'a RawValue>,
    data_base64: Option<Cow<'a, str>>,
}

impl<'a> Event<'a> {
    /// The data, if it is what the document says.
    #[allow(clippy::option_option, reason = "an event without data is one, a damaged event is none")]
    fn payload(&mut self) -> Option<Option<Cow<'a, [u8]>>> {
        if let Some(text) = self.data_base64.take() {
            return base64::decode(text.as_bytes()).map(|bytes| Some(Cow::Owned(bytes)));
        }
        let Some(data) = self.data else { return Some(None) };
        let is_text = data.get().starts_with('"')
            && self.content_type.as_deref().is_some_and(|content_type| !is_json_type(content_type));
        if !is_text {
            return Some(Some(Cow::Borrowed(data.get().as_bytes())));
        }
        Some(Some(match string(data)? {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        }))
    }

    /// Adds an attribute. `None` if the document is no event.
    fn attribute(&mut self, name: &str, value: &RawValue) -> Option<()> {
        let value = match value.get().as_bytes().first() {
            // A null attribute is the same as none.
            Some(b'n') => return Some(()),
            Some(b'"') => string(value)?,
            Some(b'{' | b'[') => return None,
            _ => Cow::Borrowed(value.get()),
        };
        if name == "datacontenttype" {
            self.content_type = Some(value.into_owned());
        } else {
            pack_header(&mut self.headers, format!("ce_{name}").as_bytes(), Some(value.as_bytes()));
        }
        Some(())
    }
}

/// The text of a JSON string; `None` if it holds half of a surrogate pair.
fn string(value: &RawValue) -> Option<Cow<'_, str>> {
    let quoted = value.get();
    if !quoted.contains('\\') {
        return Some(Cow::Borrowed(&quoted[1..quoted.len() - 1]));
    }
    serde_json::from_str(quoted).ok().map(Cow::Owned)
}

/// Reads the members of the document. Yields whether it is an event, which has an id.
struct Members<'e, 'a>(&'e mut Event<'a>);

impl<'a> Visitor<'a> for Members<'_, 'a> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a CloudEvent")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<bool, A::Error> {
        let (event, mut has_id, mut is_sound) = (self.0, false, true);
        while let Some((name, value)) = map.next_entry::<Cow<'_, str>, &RawValue>()? {
            match &*name {
                "data" => event.data = Some(value),
                "data_base64" if value.get().starts_with('"') => event.data_base64 = string(value),
                "data_base64" => is_sound &= value.get() == "null",
                name => {
                    has_id |= name == "id";
                    is_sound &= event.attribute(name, value).is_some();
                }
            }
        }
        Ok(has_id && is_sound)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::attributes::Attributes;
    use super::super::records::headers;
    use super::*;
    use crate::event::draft::Event as Emitted;
    use crate::event::envelope::Envelope;

    fn packed(pairs: &[(&str, &str)]) -> Vec<u8> {
        let mut packed = Vec::new();
        pairs.iter().for_each(|(name, value)| {
            pack_header(&mut packed, name.as_bytes(), Some(value.as_bytes()));
        });
        packed
    }

    /// Payload, content type and headers, as text.
    type Read = (Option<String>, Option<String>, Vec<(String, String)>);

    fn read(value: &str) -> Option<Read> {
        let Unfolded { headers: packed, payload, content_type } = unfold(b"", value.as_bytes())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let found = headers(&packed).map(|(name, value)| (text(name), text(value.unwrap())));
        Some((payload.map(|bytes| text(&bytes)), content_type, found.collect()))
    }

    #[test]
    fn the_content_type_decides() {
        let is = |content_type: &str| is_structured(headers(&packed(&[("Content-Type", content_type)])));
        assert!(is("application/cloudevents+json") && is("Application/CloudEvents+JSON ; charset=UTF-8"));
        assert!(!is("application/cloudevents-batch+json") && !is("application/json") && !is(""));
        assert!(!is_structured(headers(b"")));
        let last = packed(&[("content-type", "application/cloudevents+json"), ("content-type", "a/b")]);
        assert!(!is_structured(headers(&last)));
    }

    #[test]
    fn attributes_become_headers() {
        let (data, content_type, found) = read(
            r#"{"specversion":"1.0","id":"a\u0041","source":"/s","n":5,"traceparent":"00-x","gone":null,
                "datacontenttype":"application/json","data": {"k" : 1} }"#,
        )
        .unwrap();
        assert_eq!(data.as_deref(), Some(r#"{"k" : 1}"#));
        assert_eq!(content_type.as_deref(), Some("application/json"));
        let pairs = [
            ("ce_specversion", "1.0"),
            ("ce_id", "aA"),
            ("ce_source", "/s"),
            ("ce_n", "5"),
            ("ce_traceparent", "00-x"),
        ];
        assert_eq!(found, pairs.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn data_is_json_text_or_bytes() {
        let data = |rest: &str| read(&format!(r#"{{"id":"1"{rest}}}"#)).map(|(data, _, _)| data);
        let some = |text: &str| Some(Some(text.to_owned()));
        assert_eq!(data(""), Some(None));
        assert_eq!(data(r#","data":null"#), some("null"));
        assert_eq!(data(r#","data":"x""#), some("\"x\""));
        assert_eq!(data(r#","datacontenttype":"text/json","data":"x""#), some("\"x\""));
        assert_eq!(data(r#","datacontenttype":"text/plain","data":"x\n""#), some("x\n"));
        assert_eq!(data(r#","data_base64":"Zm9v""#), some("foo"));
        assert_eq!(data(r#","data":1,"data_base64":null"#), some("1"));
    }

    #[test]
    fn what_is_no_event_stays_as_it_is() {
        for wrong in [
            "",
            "1",
            "[]",
            "null",
            "{}",
            "{\"id\":1",
            "{\"id\":\"1\"} x",
            "{\"source\":\"x\"}",
            "{\"id\":\"1\",\"x\":{}}",
            "{\"id\":\"1\",\"x\":[1]}",
            "{\"id\":\"1\",\"data_base64\":",
            "{\"id\":\"1\",\"data_base64\":\"?\"}",
            "{\"id\":\"1\",\"data_base64\":5}",
            "{\"id\":\"\\ud800\"}",
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        assert_eq!(unfold(b"", b"{\"id\":\"\xff\"}"), None);
    }

    proptest! {
        /// What the outbox writes in structured mode is received as what it writes in binary mode.
        #[test]
        fn both_modes_are_received_alike(
            id in any::<[u8; 16]>(), emitted_at in 0..4_000_000_000_000_000_i64, kind in prop::option::of("\\PC{1,9}"),
            payload in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..20), "\\PC{0,9}".prop_map(|text| format!("{text:?}").into_bytes()),
                Just(b"{\"a\":[1,2]}".to_vec()), Just(b"null".to_vec()),
            ],
            content_type in prop::option::of(prop_oneof![Just("application/json"), Just("text/plain"), Just("a/b")]),
            source in "\\PC{0,9}",
        ) {
            let binary = Emitted {
                event_id: id, emitted_at, topic: "t", payload: Some(payload.clone().into()),
                event_type: kind.map(Into::into), content_type: content_type.map(Into::into), ..Emitted::default()
            };
            let record = |envelope: &Envelope, event: &Emitted<'_>| {
                let mut packed = Vec::new();
                envelope.write(event, |name, value| pack_header(&mut packed, name.as_bytes(), value));
                packed
            };
            let in_headers = record(&Envelope::CloudEvents { source: source.clone() }, &binary);
            let mut structured = binary.clone();
            let envelope = Envelope::Structured { source };
            envelope.wrap(&mut structured).unwrap();
            let in_value = record(&envelope, &structured);
            prop_assert!(is_structured(headers(&in_value)) && !is_structured(headers(&in_headers)));
            let value = structured.payload.unwrap();
            let found = unfold(&in_value, &value).unwrap();
            let expected = Attributes::of(headers(&in_headers));
            let mut attributes = Attributes::of(headers(&found.headers));
            attributes.content_type = found.content_type.map(Cow::Owned);
            prop_assert_eq!(attributes, expected);
            prop_assert_eq!(found.payload.as_deref(), Some(&*payload));
        }

        #[test]
        fn any_value_can_be_read(value in "[{}\\[\\]\":,a-z0-9\\\\]{0,30}", packed in prop::collection::vec(any::<u8>(), 0..20)) {
            let _ = is_structured(headers(&packed));
            let _ = unfold(&packed, value.as_bytes());
        }
    }
}
