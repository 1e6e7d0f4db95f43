//! Reads a JSON object as Kafka record headers.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::json;

/// The prefix of the CloudEvents attributes in the Kafka protocol binding. Only the outbox writes such headers.
pub const RESERVED_PREFIX: &str = "ce_";

/// The header that says what the value is.
pub const CONTENT_TYPE: &str = "content-type";

/// How many characters of a name an error shows.
const SHOWN: usize = 100;

/// Why a text is not a valid set of headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderError {
    /// The text is not a JSON object.
    NotAnObject,
    /// A header has an empty name.
    EmptyName,
    /// A name begins with [`RESERVED_PREFIX`], in upper or lower case.
    Reserved(String),
    /// A record header cannot hold the text: it contains half of a surrogate pair, or a name contains a NUL, and
    /// librdkafka takes names as C strings.
    Unsendable,
}

/// The headers of one event, in their written order. They borrow from the text, so their size is bounded by it: an
/// array, which repeats its header's name, is expanded only when it is sent.
#[derive(Debug, Default)]
pub struct Headers<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl Headers<'_> {
    /// Calls `put` for each header. A string is sent as it is, `null` as a null header, an array as one header per
    /// element, anything else as its JSON text.
    pub fn each(&self, mut put: impl FnMut(&str, Option<&str>)) {
        for (name, value) in &self.0 {
            // This cannot fail: `parse` has read the values before.
            let _ = values(value, |value| {
                put(name, single(value)?.as_deref());
                Ok(())
            });
        }
    }

    /// Whether there is a header with this name, ignoring case.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(other, _)| other.eq_ignore_ascii_case(name))
    }
}

/// Reads headers.
///
/// # Errors
/// The first fault of the text, as [`HeaderError`].
pub fn parse(text: &str) -> Result<Headers<'_>, HeaderError> {
    let mut headers = Vec::with_capacity(4);
    entries(text, |name, value| {
        check_name(name)?;
        values(value, |value| sent(value).map(|_| ()))?;
        headers.push((decode(name)?, value));
        Ok(())
    })?;
    Ok(Headers(headers))
}

/// Checks headers as [`parse`] does, but without allocating memory for them. Returns how many bytes are sent for them.
///
/// # Errors
/// The first fault of the text, as [`HeaderError`].
pub fn check(text: &str) -> Result<usize, HeaderError> {
    let mut bytes = 0_usize;
    entries(text, |name, value| {
        let name = check_name(name)?;
        values(value, |value| {
            let value = sent(value)?;
            bytes += name + prefix(name) + value + prefix(value);
            Ok(())
        })
    })?;
    Ok(bytes)
}

/// Whether headers have none of this name, ignoring case, without allocating memory for them. Text that holds no headers has
/// all of them: nothing can be added to it.
#[must_use]
pub fn lack(text: &str, name: &str) -> bool {
    let mut has_it = false;
    let read = entries(text, |found, _| {
        has_it |=
            characters(found).flatten().map(|character| character.to_ascii_lowercase()).eq(name.chars());
        Ok(())
    });
    read.is_ok() && !has_it
}

/// The parts of a text with further headers, which are the members of a JSON object: one part after the other is the text.
#[must_use]
pub fn with_members<'a>(own: Option<&'a str>, members: &'a str) -> [&'a str; 4] {
    let inner = own.and_then(|own| own.trim_end().strip_suffix('}')).map(str::trim_end);
    match inner {
        None => ["{", "", members, "}"],
        Some(inner) if inner.ends_with('{') => [inner, "", members, "}"],
        Some(inner) => [inner, ",", members, "}"],
    }
}

/// The size of headers that may not have been checked: that of their text, or of the headers as sent, if that is more.
#[must_use]
pub fn weigh(text: &str) -> usize {
    // Only arrays can be larger as sent than as written.
    let sent = if text.contains('[') { check(text).unwrap_or(0) } else { 0 };
    text.len().max(sent)
}

/// The size of the length prefix in Kafka's record format: a zigzag varint, with seven bits in each byte.
const fn prefix(bytes: usize) -> usize {
    let bits = usize::BITS - bytes.leading_zeros() + 1;
    bits.div_ceil(7) as usize
}

/// Calls `put` for each member of the object.
fn entries<'a>(
    text: &'a str,
    mut put: impl FnMut(&'a RawValue, &'a RawValue) -> Result<(), HeaderError>,
) -> Result<(), HeaderError> {
    let mut wrong = None;
    let mut json = serde_json::Deserializer::from_str(text);
    let entries = Entries(|name, value| put(name, value).map_err(|fault| wrong = Some(fault)));
    let read = json.deserialize_map(entries).and_then(|()| json.end());
    read.map_err(|_| wrong.unwrap_or(HeaderError::NotAnObject))
}

/// Calls `put` for each element of the value if it is an array, or else for the value itself.
fn values<'a>(
    value: &'a RawValue,
    mut put: impl FnMut(&'a RawValue) -> Result<(), HeaderError>,
) -> Result<(), HeaderError> {
    if !value.get().starts_with('[') {
        return put(value);
    }
    let mut wrong = None;
    let mut json = serde_json::Deserializer::from_str(value.get());
    let elements = Elements(|element| put(element).map_err(|fault| wrong = Some(fault)));
    // The text as a whole is valid JSON, so only an element can be wrong.
    json.deserialize_seq(elements).map_err(|_| wrong.unwrap_or(HeaderError::Unsendable))
}

/// Checks a header's name, a JSON string, and returns its length in bytes.
fn check_name(name: &RawValue) -> Result<usize, HeaderError> {
    let bytes = string_bytes(name)?;
    if bytes == 0 {
        return Err(HeaderError::EmptyName);
    }
    if characters(name).any(|character| character == Some('\0')) {
        return Err(HeaderError::Unsendable);
    }
    let start = || characters(name).flatten();
    if start().map(|character| character.to_ascii_lowercase()).take(3).eq(RESERVED_PREFIX.chars()) {
        return Err(HeaderError::Reserved(start().take(SHOWN).collect()));
    }
    Ok(bytes)
}

/// How many bytes are sent for a value.
fn sent(value: &RawValue) -> Result<usize, HeaderError> {
    match value.get().as_bytes().first() {
        Some(b'n') => Ok(0),
        Some(b'"') => string_bytes(value),
        _ => Ok(json::compact_bytes(value.get())),
    }
}

fn single(value: &RawValue) -> Result<Option<Cow<'_, str>>, HeaderError> {
    match value.get().as_bytes().first() {
        Some(b'n') => Ok(None),
        Some(b'"') => decode(value).map(Some),
        _ => Ok(Some(Cow::Owned(json::compact(value.get())))),
    }
}

/// The text of a JSON string.
fn decode(string: &RawValue) -> Result<Cow<'_, str>, HeaderError> {
    let Text(text) = serde_json::from_str(string.get()).map_err(|_| HeaderError::Unsendable)?;
    Ok(text)
}

/// The length in bytes of a JSON string's text.
fn string_bytes(string: &RawValue) -> Result<usize, HeaderError> {
    let quoted = string.get();
    if !quoted.contains('\\') {
        return Ok(quoted.len() - 2);
    }
    characters(string)
        .map(|found| found.map(char::len_utf8))
        .sum::<Option<usize>>()
        .ok_or(HeaderError::Unsendable)
}

/// The characters of a JSON string's text; `None` for half of a surrogate pair.
fn characters(string: &RawValue) -> impl Iterator<Item = Option<char>> {
    let quoted = string.get();
    let mut rest = quoted[1..quoted.len() - 1].chars();
    std::iter::from_fn(move || {
        let character = rest.next()?;
        if character != '\\' {
            return Some(Some(character));
        }
        Some(match rest.next()? {
            'b' => Some('\u{8}'),
            'f' => Some('\u{c}'),
            'n' => Some('\n'),
            'r' => Some('\r'),
            't' => Some('\t'),
            'u' => escaped(&mut rest),
            itself => Some(itself),
        })
    })
}

/// Reads the character whose UTF-16 code comes next, in one unit or two.
fn escaped(rest: &mut std::str::Chars<'_>) -> Option<char> {
    let unit = |rest: &mut std::str::Chars<'_>| {
        let digits = rest.as_str().get(..4)?;
        *rest = rest.as_str()[4..].chars();
        u16::from_str_radix(digits, 16).ok()
    };
    let first = unit(rest)?;
    if !(0xd800..0xdc00).contains(&first) {
        return char::from_u32(first.into());
    }
    *rest = rest.as_str().strip_prefix("\\u")?.chars();
    char::decode_utf16([first, unit(rest)?]).next()?.ok()
}

/// A JSON string, borrowed unless it has escapes: headers are read twice for each event, by `emit()` and by the relay.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Visits the members of a JSON object in their written order, including repeated names.
struct Entries<F>(F);

impl<'de, F: FnMut(&'de RawValue, &'de RawValue) -> Result<(), ()>> Visitor<'de> for Entries<F> {
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

/// Visits the elements of a JSON array.
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
    fn members_are_added_to_what_lacks_them() {
        for (own, expected) in [
            (None, r#"{"t":"1"}"#),
            (Some("{}"), r#"{"t":"1"}"#),
            (Some(" { } "), r#" {"t":"1"}"#),
            (Some(r#"{"a": [{}] }"#), r#"{"a": [{}],"t":"1"}"#),
        ] {
            let whole = with_members(own, "\"t\":\"1\"").concat();
            assert_eq!(whole, expected);
            assert!(own.is_none_or(|own| lack(own, "t")) && !lack(&whole, "t"));
        }
        for has_it in [r#"{"T": 1}"#, r#"{"\u0074": null}"#, "[]", "{", ""] {
            assert!(!lack(has_it, "t"), "{has_it}");
        }
        assert!(lack(r#"{"tt": 1, "x": {"t": 1}}"#, "t"));
    }

    #[test]
    fn an_array_weighs_what_is_sent() {
        let name = "n".repeat(100);
        let text = format!(r#"{{"{name}": [{}1]}}"#, "1, ".repeat(999));
        assert_eq!(check(&text), Ok(1000 * (100 + 2 + 1 + 1)));
        assert_eq!(weigh(&text), 104_000);
        assert_eq!(weigh(r#"{"a":"1"}"#), 9);
        assert_eq!(weigh("[no JSON"), 8);
        assert_eq!(
            check(r#"{"\u00e9\ud83e\udd80\n": ["\\", {"a": [1, 2]}, null]}"#),
            Ok(3 * (7 + 1) + 2 + 12 + 1)
        );
        assert_eq!([0, 63, 64, 8191, 8192].map(prefix), [1, 1, 2, 2, 3]);
    }

    #[test]
    fn invalid_headers_are_refused() {
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
