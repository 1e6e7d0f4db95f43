//! Makes jsonb values of plain JSON documents, and of headers, as Postgres stores them.
//!
//! Postgres parses JSON by the byte, into a tree of its own, and then writes that. Most events are plain: objects and arrays of
//! strings without escapes, of integers, and of `true`, `false` and `null`. Of all else, and of what is no JSON, this makes
//! nothing: it is for Postgres to parse, or to refuse.
//!
//! [`super::jsonb_image`] has the form.

use super::attributes::plain_text;
use super::jsonb_image::{Member, Node, write};
use super::records::Headers;
use crate::event::json::first_special;

/// Longer documents are left to Postgres. Here they would take memory that is not Postgres' own.
pub const LONGEST: usize = 64 << 10;

/// How deep containers may lie in each other.
const DEEPEST: usize = 32;

/// Room for the headers of most events.
const MOST_HEADERS: usize = 8;

/// Most digits of an integer.
const MOST_DIGITS: usize = 18;

/// Replaces what is in `buffer` by the value of a JSON document. Returns `false` if the document is not a plain one.
#[must_use]
pub fn of_json(json: &str, buffer: &mut Vec<u8>) -> bool {
    if json.len() > LONGEST {
        return false;
    }
    let mut parser = Parser { rest: json.as_bytes(), open: Vec::new(), members: Vec::new() };
    let root = parser.value(0);
    parser.skip_space();
    match root {
        Some(root @ (Node::Array(..) | Node::Object(..))) if parser.rest.is_empty() => {
            write(&root, &parser.members, buffer);
            true
        }
        // A scalar is stored as an array of a special kind.
        _ => false,
    }
}

/// Replaces what is in `buffer` by the value of an object of headers. Returns `false` if it is not a plain one: a name is
/// repeated, or something is no text.
#[must_use]
pub fn of_headers(headers: Headers<'_>, buffer: &mut Vec<u8>) -> bool {
    let mut members: Vec<Member<'_>> = Vec::with_capacity(MOST_HEADERS);
    let mut length = 0;
    for (name, value) in headers {
        let Some(name) = plain_text(name) else { return false };
        let node = match value.map(plain_text) {
            None => Node::Null,
            Some(None) => return false,
            Some(Some(text)) => Node::Text(text.as_bytes()),
        };
        length += name.len() + value.map_or(0, <[u8]>::len);
        members.push((name.as_bytes(), node));
    }
    if length > LONGEST || !sort(&mut members) {
        return false;
    }
    write(&Node::Object(0, members.len()), &members, buffer);
    true
}

/// Sorts the members of an object. Returns `false` if a key is repeated.
fn sort(members: &mut [Member<'_>]) -> bool {
    members.sort_unstable_by(|(a, _), (b, _)| a.len().cmp(&b.len()).then_with(|| a.cmp(b)));
    members.windows(2).all(|pair| pair[0].0 != pair[1].0)
}

struct Parser<'a> {
    rest: &'a [u8],
    /// The members so far of the containers that are not closed yet.
    open: Vec<Member<'a>>,
    /// Those of the others, each container's together.
    members: Vec<Member<'a>>,
}

impl<'a> Parser<'a> {
    fn skip_space(&mut self) {
        while let [b' ' | b'\t' | b'\n' | b'\r', rest @ ..] = self.rest {
            self.rest = rest;
        }
    }

    /// Takes this byte if it comes next, after space.
    fn take(&mut self, byte: u8) -> bool {
        self.skip_space();
        let is_next = self.rest.first() == Some(&byte);
        self.rest = &self.rest[usize::from(is_next)..];
        is_next
    }

    /// The next value; `None` if it is not plain.
    fn value(&mut self, depth: usize) -> Option<Node<'a>> {
        self.skip_space();
        match *self.rest.first()? {
            b'"' => self.text().map(Node::Text),
            b'{' | b'[' if depth >= DEEPEST => None,
            b'{' => self.object(depth + 1),
            b'[' => self.array(depth + 1),
            b't' => self.word(b"true", Node::Boolean(true)),
            b'f' => self.word(b"false", Node::Boolean(false)),
            b'n' => self.word(b"null", Node::Null),
            _ => self.integer(),
        }
    }

    fn object(&mut self, depth: usize) -> Option<Node<'a>> {
        let begin = self.open.len();
        self.rest = &self.rest[1..];
        if !self.take(b'}') {
            loop {
                self.skip_space();
                let key = self.text()?;
                if !self.take(b':') {
                    return None;
                }
                let value = self.value(depth)?;
                self.open.push((key, value));
                if !self.take(b',') {
                    break;
                }
            }
            if !self.take(b'}') {
                return None;
            }
        }
        if !sort(&mut self.open[begin..]) {
            return None;
        }
        let (first, count) = self.close(begin);
        Some(Node::Object(first, count))
    }

    fn array(&mut self, depth: usize) -> Option<Node<'a>> {
        let begin = self.open.len();
        self.rest = &self.rest[1..];
        if !self.take(b']') {
            loop {
                let value = self.value(depth)?;
                self.open.push((&[], value));
                if !self.take(b',') {
                    break;
                }
            }
            if !self.take(b']') {
                return None;
            }
        }
        let (first, count) = self.close(begin);
        Some(Node::Array(first, count))
    }

    /// Moves the members of a container that ends to their place.
    fn close(&mut self, begin: usize) -> (usize, usize) {
        let first = self.members.len();
        self.members.extend(self.open.drain(begin..));
        (first, self.members.len() - first)
    }

    /// A string without escapes.
    fn text(&mut self) -> Option<&'a [u8]> {
        let [b'"', rest @ ..] = self.rest else { return None };
        let end = first_special(rest)?;
        let (text, rest) = rest.split_at(end);
        self.rest = rest.strip_prefix(b"\"")?;
        Some(text)
    }

    fn word(&mut self, word: &[u8], node: Node<'a>) -> Option<Node<'a>> {
        self.rest = self.rest.strip_prefix(word)?;
        self.ends().then_some(node)
    }

    /// An integer of a few digits that is not `-0`.
    fn integer(&mut self) -> Option<Node<'a>> {
        let (is_negative, digits) = match self.rest {
            [b'-', digits @ ..] => (true, digits),
            digits => (false, digits),
        };
        let count = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (digits, rest) = digits.split_at(count);
        let is_zero = digits.first()? == &b'0';
        if count > MOST_DIGITS || is_zero && (count > 1 || is_negative) {
            return None;
        }
        self.rest = rest;
        let value = digits.iter().fold(0, |value, digit| value * 10 + i64::from(digit - b'0'));
        self.ends().then_some(Node::Integer(if is_negative { -value } else { value }))
    }

    /// Whether a word or a number ends here.
    fn ends(&self) -> bool {
        matches!(self.rest.first(), None | Some(b',' | b']' | b'}' | b' ' | b'\t' | b'\n' | b'\r'))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::records::{headers, pack_header};
    use super::*;

    fn made(json: &str) -> Option<Vec<u8>> {
        let mut buffer = vec![7; 3];
        of_json(json, &mut buffer).then_some(buffer)
    }

    #[test]
    fn what_is_not_plain_is_left_to_postgres() {
        let deep = "[".repeat(DEEPEST + 1) + &"]".repeat(DEEPEST + 1);
        let long = format!("[\"{}\"]", "x".repeat(LONGEST));
        let left = [
            "",
            " ",
            "1",
            "null",
            "\"a\"",
            "[1.0]",
            "[1e2]",
            "[-0]",
            "[01]",
            "[-]",
            "[1234567890123456789]",
            "[\"\\n\"]",
            "[\"\u{1}\"]",
            "[\"a]",
            "[1,]",
            "[,1]",
            "{\"a\":1,\"a\":2}",
            "{\"a\"}",
            "{a:1}",
            "{\"a\":1,}",
            "[1] 2",
            "[1",
            "{\"a\":1",
            "[truex]",
            "[nul]",
            "[1x]",
            "[1 2]",
            "{\"a\" 1}",
            "[\u{a0}1]",
            &deep,
            &long,
        ];
        for json in left {
            assert_eq!(made(json), None, "{json}");
        }
        for json in ["[]", "{}", "[[]]", "[0, -1, 999999999999999999]", "{\"\": null}", "[\"\u{7f}ü\"]\n"] {
            assert!(made(json).is_some(), "{json}");
        }
    }

    #[test]
    fn a_header_is_a_string_or_null() {
        let mut packed = Vec::new();
        pack_header(&mut packed, b"long", Some(b"1"));
        pack_header(&mut packed, b"b", None);
        let mut buffer = Vec::new();
        assert!(of_headers(headers(&packed), &mut buffer));
        assert_eq!(Some(buffer.clone()), made(r#"{"b": null, "long": "1"}"#));
        for other in [&b"2"[..], b"\xff", b"\0"] {
            let name = if other == b"2" { &b"b"[..] } else { b"other" };
            let mut packed = packed.clone();
            pack_header(&mut packed, name, Some(other));
            assert!(!of_headers(headers(&packed), &mut buffer));
        }
        assert!(of_headers(headers(&[]), &mut buffer));
        assert_eq!(Some(buffer), made("{}"));
    }

    proptest! {
        #[test]
        fn what_is_made_was_json(json in r#"[\[\]{}",:a0-2 \\tnul-]{0,12}"#) {
            if made(&json).is_some() {
                prop_assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok(), "{}", json);
            }
        }
    }
}
