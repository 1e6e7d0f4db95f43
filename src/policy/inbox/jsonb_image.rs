//! The form of jsonb values in Postgres' memory.
//!
//! It is that of `src/include/utils/jsonb.h`, which is on disk and so does not change: the length of the value, and a
//! container. A container has its count and kind, an entry for each element, or for each key and then for each value, and what
//! these stand for. Keys are sorted by length, then by bytes.

/// The kinds of containers.
const ARRAY: u32 = 0x4000_0000;
const OBJECT: u32 = 0x2000_0000;

/// The kinds of entries. That of a string is zero.
const NUMERIC: u32 = 0x1000_0000;
const FALSE: u32 = 0x2000_0000;
const TRUE: u32 = 0x3000_0000;
const NULL: u32 = 0x4000_0000;
const CONTAINER: u32 = 0x5000_0000;
const KIND: u32 = 0x7000_0000;
/// The entry has where its value ends instead of its length.
const HAS_END: u32 = 0x8000_0000;

/// Each so-manieth entry has where its value ends.
const STRIDE: usize = 32;

/// A value.
#[derive(Debug, Clone, Copy)]
pub enum Node<'a> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Boolean(bool),
    /// A number.
    Integer(i64),
    /// A string.
    Text(&'a [u8]),
    /// An array of so many members from a place on.
    Array(usize, usize),
    /// An object of so many members from a place on, which are sorted by the length of their keys, then by their bytes.
    Object(usize, usize),
}

/// An element of an array, whose key is empty, or of an object.
pub type Member<'a> = (&'a [u8], Node<'a>);

/// Replaces what is in `buffer` by a value, whose containers have these members.
pub fn write(root: &Node<'_>, members: &[Member<'_>], buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.extend_from_slice(&[0; 4]);
    put(root, members, buffer);
    let length = header(buffer.len());
    buffer[..4].copy_from_slice(&length);
}

/// What a value of variable length begins with.
fn header(length: usize) -> [u8; 4] {
    // No document is longer than LONGEST, and no entry takes more than a few times its text.
    let length = length as u32;
    if cfg!(target_endian = "little") { (length << 2).to_ne_bytes() } else { length.to_ne_bytes() }
}

fn align(buffer: &mut Vec<u8>) {
    buffer.resize(buffer.len().next_multiple_of(4), 0);
}

/// Appends what a node stands for, and returns its entry.
fn put(node: &Node<'_>, members: &[Member<'_>], buffer: &mut Vec<u8>) -> u32 {
    let begin = buffer.len();
    let kind = match *node {
        Node::Null => NULL,
        Node::Boolean(value) => {
            if value {
                TRUE
            } else {
                FALSE
            }
        }
        Node::Integer(value) => {
            align(buffer);
            put_numeric(value, buffer);
            NUMERIC
        }
        Node::Text(text) => {
            buffer.extend_from_slice(text);
            0
        }
        Node::Array(first, count) => {
            let elements = &members[first..first + count];
            let mut entries = Entries::begin(ARRAY, count, count, buffer);
            elements.iter().for_each(|(_, value)| entries.put(value, members, buffer));
            CONTAINER
        }
        Node::Object(first, count) => {
            let pairs = &members[first..first + count];
            let mut entries = Entries::begin(OBJECT, count, count * 2, buffer);
            pairs.iter().for_each(|(key, _)| entries.put(&Node::Text(key), members, buffer));
            pairs.iter().for_each(|(_, value)| entries.put(value, members, buffer));
            CONTAINER
        }
    };
    kind | (buffer.len() - begin) as u32
}

/// The entries of a container.
struct Entries {
    /// Where the next one goes.
    at: usize,
    /// How many there were.
    count: usize,
    /// Where the last value ends.
    end: u32,
}

impl Entries {
    fn begin(kind: u32, count: usize, entries: usize, buffer: &mut Vec<u8>) -> Self {
        align(buffer);
        buffer.extend_from_slice(&(kind | count as u32).to_ne_bytes());
        let at = buffer.len();
        buffer.resize(at + entries * 4, 0);
        Self { at, count: 0, end: 0 }
    }

    fn put(&mut self, node: &Node<'_>, members: &[Member<'_>], buffer: &mut Vec<u8>) {
        let mut entry = put(node, members, buffer);
        self.end += entry & !(KIND | HAS_END);
        if self.count.is_multiple_of(STRIDE) {
            entry = entry & KIND | self.end | HAS_END;
        }
        buffer[self.at..self.at + 4].copy_from_slice(&entry.to_ne_bytes());
        self.at += 4;
        self.count += 1;
    }
}

/// Appends an integer as a numeric in its short form: digits to the base of 10,000 without zeros at the end.
fn put_numeric(value: i64, buffer: &mut Vec<u8>) {
    const BASE: u64 = 10_000;
    const SHORT: u16 = 0x8000;
    const NEGATIVE: u16 = 0x2000;
    let mut digits = [0_u16; 5];
    let (mut first, mut rest) = (digits.len(), value.unsigned_abs());
    while rest > 0 {
        first -= 1;
        digits[first] = (rest % BASE) as u16;
        rest /= BASE;
    }
    let weight = (digits.len() - first).saturating_sub(1) as u16;
    let end = digits.iter().rposition(|digit| *digit != 0).map_or(first, |last| last + 1);
    let sign = if value < 0 { NEGATIVE } else { 0 };
    buffer.extend_from_slice(&header(4 + 2 + 2 * (end - first)));
    buffer.extend_from_slice(&(SHORT | sign | weight).to_ne_bytes());
    digits[first..end].iter().for_each(|digit| buffer.extend_from_slice(&digit.to_ne_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn a_document_is_as_postgres_stores_it() {
        // As pageinspect shows '{"b": [true, 10000], "a": "x"}'::jsonb.
        let expected = [
            &(48_u32 << 2).to_ne_bytes()[..],
            &(OBJECT | 2).to_ne_bytes(),
            &(HAS_END | 1).to_ne_bytes(),
            &1_u32.to_ne_bytes(),
            &1_u32.to_ne_bytes(),
            &(CONTAINER | 21).to_ne_bytes(),
            b"abx\0",
            &(ARRAY | 2).to_ne_bytes(),
            &(HAS_END | TRUE).to_ne_bytes(),
            &(NUMERIC | 8).to_ne_bytes(),
            &(8_u32 << 2).to_ne_bytes(),
            &0x8001_u16.to_ne_bytes(),
            &1_u16.to_ne_bytes(),
        ]
        .concat();
        let members: [Member<'_>; 4] = [
            (b"", Node::Boolean(true)),
            (b"", Node::Integer(10_000)),
            (b"a", Node::Text(b"x")),
            (b"b", Node::Array(0, 2)),
        ];
        let mut buffer = Vec::new();
        write(&Node::Object(2, 2), &members, &mut buffer);
        assert_eq!(buffer, expected);
    }
}
