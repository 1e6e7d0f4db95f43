//! A JSON document as a tree that keeps numbers as they are written: a float would lose some of them.

use std::borrow::Cow;

use super::limits::MAX_DEPTH;

/// A JSON value, which borrows from its text.
#[derive(Debug, Clone, PartialEq)]
pub enum Json<'a> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Boolean(bool),
    /// A number, as it is written.
    Number(&'a str),
    /// A string, without quotes and escapes.
    Text(Cow<'a, str>),
    /// An array.
    Array(Vec<Json<'a>>),
    /// An object, in the order of the text.
    Object(Vec<(Cow<'a, str>, Json<'a>)>),
}

/// Why a text is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreadable {
    /// It is not JSON from this byte on.
    NotJson(usize),
    /// It is nested too deeply.
    TooDeep,
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotJson(at) => write!(f, "it is not JSON from byte {} on", at + 1),
            Self::TooDeep => write!(f, "it is nested more than {MAX_DEPTH} levels deep"),
        }
    }
}

impl<'a> Json<'a> {
    /// Reads a document.
    ///
    /// # Errors
    /// The text is no JSON document, or nested too deeply.
    pub fn parse(text: &'a str) -> Result<Self, Unreadable> {
        let mut parser = Parser { text, at: 0 };
        let value = parser.value(0)?;
        parser.skip_space();
        if parser.at < text.len() { Err(parser.fault()) } else { Ok(value) }
    }

    /// What kind of value it is, for error messages.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Boolean(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::Text(_) => "a string",
            Self::Array(_) => "an array",
            Self::Object(_) => "an object",
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn fault(&self) -> Unreadable {
        Unreadable::NotJson(self.at)
    }

    fn rest(&self) -> &'a [u8] {
        &self.text.as_bytes()[self.at..]
    }

    fn skip_space(&mut self) {
        let space = self.rest().iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r'));
        self.at += space.count();
    }

    /// Takes this byte if it comes next, after space.
    fn take(&mut self, byte: u8) -> bool {
        self.skip_space();
        let is_next = self.rest().first() == Some(&byte);
        self.at += usize::from(is_next);
        is_next
    }

    fn require(&mut self, byte: u8) -> Result<(), Unreadable> {
        if self.take(byte) { Ok(()) } else { Err(self.fault()) }
    }

    fn value(&mut self, depth: usize) -> Result<Json<'a>, Unreadable> {
        self.skip_space();
        match self.rest().first() {
            Some(b'{' | b'[') if depth >= MAX_DEPTH => Err(Unreadable::TooDeep),
            Some(b'{') => self.object(depth + 1),
            Some(b'[') => self.array(depth + 1),
            Some(b'"') => self.string().map(Json::Text),
            Some(b't') => self.word("true", Json::Boolean(true)),
            Some(b'f') => self.word("false", Json::Boolean(false)),
            Some(b'n') => self.word("null", Json::Null),
            _ => self.number(),
        }
    }

    fn object(&mut self, depth: usize) -> Result<Json<'a>, Unreadable> {
        let mut members = Vec::new();
        self.at += 1;
        if self.take(b'}') {
            return Ok(Json::Object(members));
        }
        loop {
            self.skip_space();
            let name = self.string()?;
            self.require(b':')?;
            members.push((name, self.value(depth)?));
            if !self.take(b',') {
                break;
            }
        }
        self.require(b'}')?;
        Ok(Json::Object(members))
    }

    fn array(&mut self, depth: usize) -> Result<Json<'a>, Unreadable> {
        let mut elements = Vec::new();
        self.at += 1;
        if self.take(b']') {
            return Ok(Json::Array(elements));
        }
        loop {
            elements.push(self.value(depth)?);
            if !self.take(b',') {
                break;
            }
        }
        self.require(b']')?;
        Ok(Json::Array(elements))
    }

    fn string(&mut self) -> Result<Cow<'a, str>, Unreadable> {
        let rest = self.rest();
        if rest.first() != Some(&b'"') {
            return Err(self.fault());
        }
        let (mut end, mut is_plain) = (1, true);
        loop {
            match rest.get(end) {
                None | Some(0..0x20) => return Err(self.fault()),
                Some(b'"') => break,
                Some(b'\\') => {
                    is_plain = false;
                    end += 2;
                }
                Some(_) => end += 1,
            }
        }
        let quoted = &self.text[self.at..=self.at + end];
        let text = match is_plain {
            true => Cow::Borrowed(&quoted[1..end]),
            false => Cow::Owned(serde_json::from_str(quoted).map_err(|_| self.fault())?),
        };
        self.at += end + 1;
        Ok(text)
    }

    fn word(&mut self, word: &str, value: Json<'a>) -> Result<Json<'a>, Unreadable> {
        if !self.rest().starts_with(word.as_bytes()) {
            return Err(self.fault());
        }
        self.at += word.len();
        Ok(value)
    }

    fn number(&mut self) -> Result<Json<'a>, Unreadable> {
        let is_part = |byte: &&u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
        let length = self.rest().iter().take_while(is_part).count();
        let text = &self.text[self.at..self.at + length];
        if !is_number(text.as_bytes()) {
            return Err(self.fault());
        }
        self.at += length;
        Ok(Json::Number(text))
    }
}

/// Whether the text is a number by JSON's grammar.
fn is_number(text: &[u8]) -> bool {
    let digits = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let rest = text.strip_prefix(b"-").unwrap_or(text);
    let whole = digits(rest);
    if whole == 0 || whole > 1 && rest[0] == b'0' {
        return false;
    }
    let mut rest = &rest[whole..];
    if let Some(fraction) = rest.strip_prefix(b".") {
        let count = digits(fraction);
        if count == 0 {
            return false;
        }
        rest = &fraction[count..];
    }
    if let [b'e' | b'E', exponent @ ..] = rest {
        let exponent = exponent.strip_prefix(b"+").or(exponent.strip_prefix(b"-")).unwrap_or(exponent);
        let count = digits(exponent);
        return count > 0 && count == exponent.len();
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_stay_as_they_are_written() {
        let Ok(Json::Array(numbers)) = Json::parse(" [9007199254740993, 1.10, -0, 1E+2] ") else { panic!() };
        let expected = ["9007199254740993", "1.10", "-0", "1E+2"].map(Json::Number);
        assert_eq!(numbers, expected);
    }

    #[test]
    fn depth_is_limited() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(Json::parse(&nested(MAX_DEPTH)).is_ok());
        assert_eq!(Json::parse(&nested(MAX_DEPTH + 1)), Err(Unreadable::TooDeep));
        assert_eq!(Json::parse(&"[".repeat(100_000)), Err(Unreadable::TooDeep));
    }

    proptest! {
        /// The parser accepts what serde_json accepts.
        #[test]
        fn agrees_with_serde(text in r#"[\[\]{}",:a0-2eE.+ -\\ntruefalsnul]{0,14}"#) {
            let expected = serde_json::from_str::<serde_json::Value>(&text);
            // A number that is too large for a float is one nevertheless.
            let is_out_of_range = expected.as_ref().is_err_and(|error| error.to_string().contains("out of range"));
            prop_assert!(is_out_of_range || Json::parse(&text).is_ok() == expected.is_ok(), "{}", text);
        }

        #[test]
        fn strings_are_unescaped(text in "\\PC{0,9}|[\\x00-\\x1f\"\\\\ü]{0,9}") {
            let quoted = serde_json::to_string(&text).unwrap();
            prop_assert_eq!(Json::parse(&quoted), Ok(Json::Text(text.into())));
        }
    }
}
