//! Owns the look into JSON: the members of an object, one value by its path, and a value as a column takes it.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The members of an object in their order. Of those with the same name, the last one counts.
#[derive(Debug, Default)]
pub struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Members<'a> {
    /// Those of a JSON text.
    ///
    /// # Errors
    /// Why the text is no JSON object.
    pub fn of(json: &'a str) -> Result<Self, String> {
        let first = json.trim_start_matches([' ', '\t', '\n', '\r']).bytes().next();
        let mut parser = serde_json::Deserializer::from_str(json);
        let members = parser.deserialize_map(MembersVisitor).and_then(|members| {
            parser.end()?;
            Ok(members)
        });
        members.map_err(|error| match first {
            Some(b'{') => format!("it is not JSON: {error}"),
            _ => "it is not a JSON object".into(),
        })
    }

    /// The value of a member.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().rev().find(|(member, _)| member == name).map(|(_, value)| *value)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::with_capacity(8);
        while let Some(name) = map.next_key::<Name<'de>>()? {
            members.push((name.0, map.next_value()?));
        }
        Ok(Members(members))
    }
}

/// A member's name, without a copy if it has no escapes.
struct Name<'a>(Cow<'a, str>);

impl<'de> serde::Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;
        impl<'de> Visitor<'de> for NameVisitor {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_str<E: Error>(self, name: &'de str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Borrowed(name)))
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Owned(name.to_owned())))
            }
        }
        deserializer.deserialize_str(NameVisitor)
    }
}

/// A JSON value as a column takes it: `None` for null, a string without its quotes, all else as it is written. With `is_json`,
/// a string keeps its quotes.
///
/// # Errors
/// The string cannot be text of PostgreSQL.
pub fn cell(value: &RawValue, is_json: bool) -> Result<Option<Cow<'_, str>>, String> {
    let json = value.get();
    if json == "null" {
        return Ok(None);
    }
    let Some(inside) = json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).filter(|_| !is_json)
    else {
        return Ok(Some(Cow::Borrowed(json)));
    };
    if !inside.contains('\\') {
        return Ok(Some(Cow::Borrowed(inside)));
    }
    let text: String = serde_json::from_str(json).map_err(|error| format!("it is not JSON: {error}"))?;
    if text.contains('\0') {
        return Err("a string has the character \\u0000, which text cannot have".into());
    }
    Ok(Some(Cow::Owned(text)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn members_are_found_by_name_and_the_last_one_counts() {
        let members = Members::of(r#" {"a": 1, "b": {"c": [1, 2]}, "a": "x\ny", "\u0061b": null} "#).unwrap();
        assert_eq!(members.get("b").map(RawValue::get), Some(r#"{"c": [1, 2]}"#));
        let cell = |name, is_json| cell(members.get(name).unwrap(), is_json).unwrap();
        assert_eq!(cell("a", false).as_deref(), Some("x\ny"));
        assert_eq!(cell("a", true).as_deref(), Some(r#""x\ny""#));
        assert_eq!(cell("ab", false), None);
        assert!(members.get("c").is_none());
    }

    #[test]
    fn what_is_no_object_says_so() {
        for (json, error) in [
            ("", "it is not a JSON object"),
            ("[1]", "it is not a JSON object"),
            ("nonsense", "it is not a JSON object"),
        ] {
            assert_eq!(Members::of(json).unwrap_err(), error, "{json}");
        }
        assert!(Members::of(r#"{"a": 1"#).unwrap_err().starts_with("it is not JSON: "));
        assert!(Members::of(r#"{"a": 1} x"#).unwrap_err().starts_with("it is not JSON: "));
        let members = Members::of(r#"{"a": "\u0000", "b": "\ud800"}"#).unwrap();
        assert!(cell(members.get("a").unwrap(), false).unwrap_err().contains("\\u0000"));
        assert!(cell(members.get("b").unwrap(), false).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_as_serde_reads_it(text in any::<String>()) {
            let json = serde_json::json!({ "a": text }).to_string();
            let members = Members::of(&json).unwrap();
            match cell(members.get("a").unwrap(), false) {
                Ok(read) => prop_assert_eq!(read.as_deref(), Some(&*text)),
                Err(_) => prop_assert!(text.contains('\0')),
            }
        }
    }
}
