//! A JSON object read as Kafka record headers.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::json;

/// The prefix of the CloudEvents attributes in the Kafka protocol binding: ours alone to write.
pub const RESERVED_PREFIX: &str = "ce_";

/// Characters of a name that an error shows.
const SHOWN: usize = 100;

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

/// The headers of one event, in their written order. What is borrowed is as large as the text, whatever the text says:
/// an array repeats its header's name, and is taken apart only when it is sent.
#[derive(Debug, Default)]
pub struct Headers<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl Headers<'_> {
    /// Gives each header: a string is sent as it is, `null` as a null header, an array as one header per element,
    /// anything else as its JSON text.
    pub fn each(&self, mut put: impl FnMut(&str, Option<&str>)) {
        for (name, value) in &self.0 {
            // They have been read once, by `parse`.
            let _ = values(value, |value| {
                put(name, value.as_deref());
                Ok(())
            });
        }
    }

    /// Whether there is a header of this name, in whatever case.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(other, _)| other.eq_ignore_ascii_case(name))
    }
}

/// Reads headers.
///
/// # Errors
/// The first thing wrong with the text, as [`HeaderError`].
pub fn parse(text: &str) -> Result<Headers<'_>, HeaderError> {
    let mut headers = Vec::with_capacity(4);
    entries(text, |name, value| {
        values(value, |_| Ok(()))?;
        headers.push((name, value));
        Ok(())
    })?;
    Ok(Headers(headers))
}

/// Checks headers as [`parse`] does, but keeps none of them. Gives the bytes that are sent for them.
///
/// # Errors
/// The first thing wrong with the text, as [`HeaderError`].
pub fn check(text: &str) -> Result<usize, HeaderError> {
    let mut bytes = 0_usize;
    entries(text, |name, value| {
        values(value, |value| {
            let value = value.map_or(0, |value| value.len());
            bytes += name.len() + prefix(name.len()) + value + prefix(value);
            Ok(())
        })
    })?;
    Ok(bytes)
}

/// What headers that may not have been checked weigh: their text, or what is sent for them if that is more.
#[must_use]
pub fn weigh(text: &str) -> usize {
    // Only an array is sent as more than it is written as.
    let sent = if text.contains('[') { check(text).unwrap_or(0) } else { 0 };
    text.len().max(sent)
}

/// The bytes that Kafka's record format puts before so many: their number, seven bits a byte, with one for the sign.
const fn prefix(bytes: usize) -> usize {
    let bits = usize::BITS - bytes.leading_zeros() + 1;
    bits.div_ceil(7) as usize
}

/// Gives the members of the object, and says what is wrong with their names.
fn entries<'a>(
    text: &'a str,
    mut put: impl FnMut(Cow<'a, str>, &'a RawValue) -> Result<(), HeaderError>,
) -> Result<(), HeaderError> {
    let mut wrong = None;
    let mut json = serde_json::Deserializer::from_str(text);
    let entries = Entries(|Text(name): Text<'a>, value| {
        let fault = if name.contains('\0') {
            Err(HeaderError::Unsendable)
        } else if name.is_empty() {
            Err(HeaderError::EmptyName)
        } else if is_reserved(&name) {
            Err(HeaderError::Reserved(name.chars().take(SHOWN).collect()))
        } else {
            put(name, value)
        };
        fault.map_err(|fault| wrong = Some(fault))
    });
    let read = json.deserialize_map(entries).and_then(|()| json.end());
    read.map_err(|_| wrong.unwrap_or_else(|| not_read(text)))
}

fn is_reserved(name: &str) -> bool {
    name.get(..RESERVED_PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(RESERVED_PREFIX))
}

/// Gives what is sent for a member's value: one header, or one for each element.
fn values<'a>(
    value: &'a RawValue,
    mut put: impl FnMut(Option<Cow<'a, str>>) -> Result<(), HeaderError>,
) -> Result<(), HeaderError> {
    if !value.get().starts_with('[') {
        return put(single(value)?);
    }
    let mut wrong = None;
    let mut json = serde_json::Deserializer::from_str(value.get());
    let elements = Elements(|element| {
        let fault = single(element).and_then(&mut put);
        fault.map_err(|fault| wrong = Some(fault))
    });
    // The text as a whole is JSON, so that it is the elements that can be wrong.
    json.deserialize_seq(elements).map_err(|_| wrong.unwrap_or(HeaderError::Unsendable))
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

/// The members of a JSON object in their written order, repeated names kept, each given as it is read.
struct Entries<F>(F);

impl<'de, F: FnMut(Text<'de>, &'de RawValue) -> Result<(), ()>> Visitor<'de> for Entries<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some((name, value)) = map.next_entry()? {
            self.0(name, value).map_err(|()| A::Error::custom("not a header"))?;
        }
        Ok(())
    }
}

/// The elements of a JSON array, each given as it is read.
struct Elements<F>(F);

impl<'de, F: FnMut(&'de RawValue) -> Result<(), ()>> Visitor<'de> for Elements<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON array")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        while let Some(element) = list.next_element()? {
            self.0(element).map_err(|()| A::Error::custom("not a header"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Header<'a> = (&'a str, Option<&'a str>);

    fn read(text: &str) -> Vec<(String, Option<String>)> {
        let mut headers = Vec::new();
        parse(text).unwrap().each(|name, value| headers.push((name.to_owned(), value.map(str::to_owned))));
        headers
    }

    fn assert_read(text: &str, expected: &[Header<'_>]) {
        let expected = expected.iter().map(|(name, value)| ((*name).to_owned(), value.map(str::to_owned)));
        assert_eq!(read(text), expected.collect::<Vec<_>>(), "{text}");
    }

    #[test]
    fn nothing_is_copied_without_need() {
        let Headers(headers) = parse(r#"{"a": "plain", "b\u0020": "\u0041", "c": 1}"#).unwrap();
        let is_borrowed = |text: &Cow<'_, str>| matches!(text, Cow::Borrowed(_));
        let borrowed = headers
            .iter()
            .map(|(name, value)| (is_borrowed(name), is_borrowed(&single(value).unwrap().unwrap())));
        assert_eq!(borrowed.collect::<Vec<_>>(), [(true, true), (false, false), (true, false)]);
    }

    #[test]
    fn each_kind_of_value() {
        assert_read(
            r#"{"s": "plain \"x\"", "n": null, "l": ["a", null, 2], "i": 1.10, "b": true, "o": {"k": [1, 2]}, "e": []}"#,
            &[
                ("s", Some("plain \"x\"")),
                ("n", None),
                ("l", Some("a")),
                ("l", None),
                ("l", Some("2")),
                ("i", Some("1.10")),
                ("b", Some("true")),
                ("o", Some(r#"{"k":[1,2]}"#)),
            ],
        );
    }

    #[test]
    fn order_and_repeats_are_kept() {
        assert_read(
            r#"{"z": "1", "a": "2", "z": "3"}"#,
            &[("z", Some("1")), ("a", Some("2")), ("z", Some("3"))],
        );
        assert!(parse(r#"{"Content-Type": 1}"#).unwrap().has("content-type"));
    }

    #[test]
    fn an_array_weighs_what_is_sent() {
        let name = "n".repeat(100);
        let text = format!(r#"{{"{name}": [{}1]}}"#, "1, ".repeat(999));
        assert_eq!(check(&text), Ok(1000 * (100 + 2 + 1 + 1)));
        assert_eq!(weigh(&text), 104_000);
        assert_eq!(weigh(r#"{"a":"1"}"#), 9);
        assert_eq!(weigh("[no JSON"), 8);
        assert_eq!([0, 63, 64, 8191, 8192].map(prefix), [1, 1, 2, 2, 3]);
    }

    #[test]
    fn what_is_refused() {
        let wrong = |text: &str| {
            let (parsed, checked) = (parse(text).map(|_| ()), check(text).map(|_| ()));
            assert_eq!(parsed, checked, "{text}");
            parsed.unwrap_err()
        };
        for text in ["[]", "\"x\"", "1", "null", "", "{", "{} {}"] {
            assert_eq!(wrong(text), HeaderError::NotAnObject, "{text}");
        }
        assert_eq!(wrong(r#"{"": 1}"#), HeaderError::EmptyName);
        for name in ["ce_id", "CE_x", "Ce_"] {
            assert_eq!(wrong(&format!(r#"{{"{name}": 1}}"#)), HeaderError::Reserved(name.to_owned()));
        }
        for text in [r#"{"a\u0000b": 1}"#, r#"{"a": "\ud800"}"#, r#"{"a": ["\ud800"]}"#, r#"{"\ud800": 1}"#] {
            assert_eq!(wrong(text), HeaderError::Unsendable, "{text}");
        }
        assert_read(r#"{"a": "b\u0000c"}"#, &[("a", Some("b\0c"))]);
        assert!(parse(r#"{"cents": 1, "ce": 2, "é_": 3}"#).is_ok());
    }
}
