//! A JSON object read as Kafka record headers.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::json;

/// The prefix of the CloudEvents attributes in the Kafka protocol binding: ours alone to write.
pub const RESERVED_PREFIX: &str = "ce_";

/// One record header, borrowed from the text where that spells it out; a `None` value is Kafka's null header.
pub type Header<'a> = (Cow<'a, str>, Option<Cow<'a, str>>);

/// Why a text cannot be read as headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderError {
    /// The text is not a JSON object.
    NotAnObject,
    /// A header without a name.
    EmptyName,
    /// A name that begins with [`RESERVED_PREFIX`], in whatever case.
    Reserved(String),
    /// Text that no record header can hold: half of a surrogate pair, or a NUL in a name, which librdkafka
    /// takes as a C string.
    Unsendable,
}

/// Reads the headers in their written order: a string is sent as it is, `null` as a null header, an
/// array as one header per element, anything else as its JSON text.
///
/// # Errors
/// The first thing wrong with the text, as [`HeaderError`].
pub fn parse(text: &str) -> Result<Vec<Header<'_>>, HeaderError> {
    let Object(entries) = serde_json::from_str(text).map_err(|_| not_read(text))?;
    let mut headers = Vec::with_capacity(entries.len());
    for (name, value) in entries {
        if name.contains('\0') {
            return Err(HeaderError::Unsendable);
        }
        if name.is_empty() {
            return Err(HeaderError::EmptyName);
        }
        if name.get(..RESERVED_PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(RESERVED_PREFIX))
        {
            return Err(HeaderError::Reserved(name.into_owned()));
        }
        let elements =
            value.get().starts_with('[').then(|| serde_json::from_str::<Vec<&RawValue>>(value.get()));
        match elements {
            Some(Ok(elements)) => {
                for element in elements {
                    headers.push((name.clone(), single(element)?));
                }
            }
            _ => headers.push((name, single(value)?)),
        }
    }
    Ok(headers)
}

/// Why a text could not be read as an object of strings: it is none, or one of its names is no text.
fn not_read(text: &str) -> HeaderError {
    if text.trim_start().starts_with('{') && serde_json::from_str::<&RawValue>(text).is_ok() {
        HeaderError::Unsendable
    } else {
        HeaderError::NotAnObject
    }
}

fn single(value: &RawValue) -> Result<Option<Cow<'_, str>>, HeaderError> {
    let text = value.get();
    match text.as_bytes().first() {
        Some(b'n') => Ok(None),
        Some(b'"') => {
            let Text(text) = serde_json::from_str(text).map_err(|_| HeaderError::Unsendable)?;
            Ok(Some(text))
        }
        _ => Ok(Some(Cow::Owned(json::compact(text)))),
    }
}

/// A JSON string, borrowed unless it has escapes: headers are read for each event, by its author and by the relay.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// A JSON object as its entries in their written order, repeated names kept.
struct Object<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Entries)
    }
}

struct Entries;

impl<'de> Visitor<'de> for Entries {
    type Value = Object<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::with_capacity(map.size_hint().unwrap_or(4));
        while let Some((Text(name), value)) = map.next_entry()? {
            entries.push((name, value));
        }
        Ok(Object(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header<'a>(name: &'a str, value: Option<&'a str>) -> Header<'a> {
        (name.into(), value.map(Cow::from))
    }

    #[test]
    fn nothing_is_copied_without_need() {
        let headers = parse(r#"{"a": "plain", "b\u0020": "\u0041", "c": 1}"#).unwrap();
        let is_borrowed = |text: &Cow<'_, str>| matches!(text, Cow::Borrowed(_));
        let borrowed =
            headers.iter().map(|(name, value)| (is_borrowed(name), is_borrowed(value.as_ref().unwrap())));
        assert_eq!(borrowed.collect::<Vec<_>>(), [(true, true), (false, false), (true, false)]);
    }

    #[test]
    fn each_kind_of_value() {
        let text = r#"{"s": "plain \"x\"", "n": null, "l": ["a", null, 2], "i": 1.10, "b": true, "o": {"k": [1, 2]}, "e": []}"#;
        assert_eq!(
            parse(text).unwrap(),
            vec![
                header("s", Some("plain \"x\"")),
                header("n", None),
                header("l", Some("a")),
                header("l", None),
                header("l", Some("2")),
                header("i", Some("1.10")),
                header("b", Some("true")),
                header("o", Some(r#"{"k":[1,2]}"#)),
            ]
        );
    }

    #[test]
    fn order_and_repeats_are_kept() {
        assert_eq!(
            parse(r#"{"z": "1", "a": "2", "z": "3"}"#).unwrap(),
            vec![header("z", Some("1")), header("a", Some("2")), header("z", Some("3"))]
        );
    }

    #[test]
    fn what_is_refused() {
        for text in ["[]", "\"x\"", "1", "null", "", "{"] {
            assert_eq!(parse(text), Err(HeaderError::NotAnObject), "{text}");
        }
        assert_eq!(parse(r#"{"": 1}"#), Err(HeaderError::EmptyName));
        for name in ["ce_id", "CE_x", "Ce_"] {
            assert_eq!(parse(&format!(r#"{{"{name}": 1}}"#)), Err(HeaderError::Reserved(name.to_owned())));
        }
        for text in [r#"{"a\u0000b": 1}"#, r#"{"a": "\ud800"}"#, r#"{"a": ["\ud800"]}"#, r#"{"\ud800": 1}"#] {
            assert_eq!(parse(text), Err(HeaderError::Unsendable), "{text}");
        }
        assert_eq!(parse(r#"{"a": "b\u0000c"}"#).unwrap(), vec![header("a", Some("b\0c"))]);
        assert!(parse(r#"{"cents": 1, "ce": 2, "é_": 3}"#).is_ok());
    }
}
