//! Owns where the value of a column comes from: a place in the record's value or key, or what Kafka says of the record.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::members::Members;

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The member of an object.
    Member(String),
    /// The element of an array, from 0.
    Element(usize),
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A place in the row that the value is or has: `$`, `$.a.b`, `$.a[0]`, `$."odd name"`.
    Row(Vec<Step>),
    /// The record's key as text: `@key`.
    Key,
    /// A place in the record's key, which is JSON: `@key.a`.
    InKey(Vec<Step>),
    /// The record's offset: `@offset`.
    Offset,
    /// The record's partition: `@partition`.
    Partition,
    /// The record's timestamp: `@timestamp`.
    Timestamp,
    /// The last header with this name: `@header.name`.
    Header(String),
}

impl Source {
    /// Parses a source.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix('$') {
            return steps(path).map(Self::Row);
        }
        let Some(word) = text.strip_prefix('@') else {
            return Err("a source begins with $ or @".into());
        };
        match word {
            "key" => Ok(Self::Key),
            "offset" => Ok(Self::Offset),
            "partition" => Ok(Self::Partition),
            "timestamp" => Ok(Self::Timestamp),
            _ => match (word.strip_prefix("header."), word.strip_prefix("key")) {
                (Some(name), _) if !name.is_empty() => Ok(Self::Header(name.into())),
                (_, Some(path)) if path.starts_with(['.', '[']) => steps(path).map(Self::InKey),
                _ => Err(format!("there is no @{word}")),
            },
        }
    }

    /// Whether it is known of a record without its value.
    #[must_use]
    pub fn is_of_key(&self) -> bool {
        matches!(self, Self::Key | Self::InKey(_))
    }
}

/// Parses the steps of a path after its root.
fn steps(mut rest: &str) -> Result<Vec<Step>, String> {
    let mut steps = Vec::new();
    while !rest.is_empty() {
        let (step, after) = step(rest)?;
        steps.push(step);
        rest = after;
    }
    Ok(steps)
}

fn step(text: &str) -> Result<(Step, &str), String> {
    if let Some(inside) = text.strip_prefix('[') {
        let (number, rest) = inside.split_once(']').ok_or("a [ is not closed")?;
        let number = number.parse().map_err(|_| format!("[{number}] is no place in an array"))?;
        return Ok((Step::Element(number), rest));
    }
    let name =
        text.strip_prefix('.').ok_or_else(|| format!("a step begins with . or [, not as in {text}"))?;
    if name.starts_with('"') {
        let mut names = serde_json::Deserializer::from_str(name).into_iter::<String>();
        let member = names.next().and_then(Result::ok).ok_or("a quoted name is not closed")?;
        return Ok((Step::Member(member), &name[names.byte_offset()..]));
    }
    let end = name.find(['.', '[']).unwrap_or(name.len());
    let (member, rest) = name.split_at(end);
    if member.is_empty() || member.contains(['*', '?', '(', ')', ']', ' ', '"']) {
        return Err(format!("{member:?} is no name of a member; quote it, as in $.\"my name\""));
    }
    Ok((Step::Member(member.into()), rest))
}

/// The value at the end of a path from an object whose members are known.
///
/// # Errors
/// A value on the way is no JSON.
pub fn follow<'a>(members: &Members<'a>, path: &[Step]) -> Result<Option<&'a RawValue>, String> {
    let Some((Step::Member(name), rest)) = path.split_first() else { return Ok(None) };
    let mut value = members.get(name);
    for step in rest {
        let Some(inside) = value else { return Ok(None) };
        value = match step {
            Step::Member(name) if inside.get().starts_with('{') => Members::of(inside.get())?.get(name),
            Step::Element(at) if inside.get().starts_with('[') => elements(inside.get())?.get(*at).copied(),
            _ => None,
        };
    }
    Ok(value)
}

fn elements(json: &str) -> Result<Vec<&RawValue>, String> {
    serde_json::from_str(json).map_err(|error| format!("it is not JSON: {error}"))
}

/// Bytes as text.
///
/// # Errors
/// They are not valid text of PostgreSQL. `what` names them.
pub fn text<'a>(bytes: &'a [u8], what: &str) -> Result<Cow<'a, str>, String> {
    let text = std::str::from_utf8(bytes)
        .map_err(|error| format!("{what} is not valid UTF-8 from byte {} on", error.valid_up_to() + 1))?;
    if text.contains('\0') {
        return Err(format!("{what} has a zero byte, which text cannot have"));
    }
    Ok(Cow::Borrowed(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(json: &str, source: &str) -> Option<String> {
        let Ok(Source::Row(path)) = Source::parse(source) else { panic!("{source}") };
        follow(&Members::of(json).unwrap(), &path).unwrap().map(|value| value.get().to_owned())
    }

    #[test]
    fn a_path_leads_to_its_value() {
        let json = r#"{"a": {"b": [10, {"c": "x"}]}, "my name": 1, "n": null}"#;
        for (source, value) in [
            ("$.a.b[0]", Some("10")),
            ("$.a.b[1].c", Some("\"x\"")),
            ("$.\"my name\"", Some("1")),
            ("$.n", Some("null")),
            ("$.n.x", None),
            ("$.a.b[2]", None),
            ("$.a[0]", None),
            ("$.missing.a", None),
        ] {
            assert_eq!(at(json, source).as_deref(), value, "{source}");
        }
    }

    #[test]
    fn other_sources_are_known_by_their_names() {
        for (text, source) in [
            ("@key", Source::Key),
            ("@key.id", Source::InKey(vec![Step::Member("id".into())])),
            ("@offset", Source::Offset),
            ("@partition", Source::Partition),
            ("@timestamp", Source::Timestamp),
            ("@header.ce_type", Source::Header("ce_type".into())),
            ("$", Source::Row(Vec::new())),
        ] {
            assert_eq!(Source::parse(text), Ok(source), "{text}");
        }
        for wrong in
            ["", "a", "$a", "$.", "$.a[", "$.a[x]", "$.a..b", "$.*", "$.\"a", "@", "@keys", "@header."]
        {
            assert!(Source::parse(wrong).is_err(), "{wrong}");
        }
    }
}
