//! The topics of the test, and what is special about each.

use event_outbox_lab::Result;

/// A topic that exists from the beginning: its name, its partitions and its configuration.
type Existing = (&'static str, i32, &'static [(&'static str, &'static str)]);

/// Only the last is deleted during the test.
const TOPICS: [Existing; EXISTING] = [
    ("torture.a", 6, &[]),
    ("torture.b", 3, &[]),
    ("torture.c", 1, &[]),
    ("torture.small", 2, &[("max.message.bytes", "50000")]),
    ("torture.volatile", PARTITIONS, &[]),
];

/// A real broker accepts only small batches for this topic.
pub const SMALL: usize = 3;

/// This topic is deleted and created again.
pub const VOLATILE: usize = 4;

/// The first of the missing topics, which are created one after the other.
const FIRST_LOST: usize = EXISTING;

/// How many missing topics there are.
pub const LOST: usize = 60;

/// Keys of each existing topic.
pub const KEYS: usize = 40;

/// The text of a key. The last key has an unusually long one.
pub fn key_text(key: u16) -> String {
    let number = key.to_string();
    if usize::from(key) == KEYS - 1 { number.repeat(LONG_KEY / number.len()) } else { number }
}

/// Bytes of the long key: with the largest payload it still fits into a small batch.
const LONG_KEY: usize = 20_000;

/// Partitions of the topics that do not exist from the beginning.
pub const PARTITIONS: i32 = 2;

/// A partition that no topic has.
pub const NO_PARTITION: i32 = 97;

/// How many topics exist from the beginning.
pub const EXISTING: usize = 5;

/// The names of all topics. Elsewhere a topic is its index in this list.
pub fn names() -> Vec<String> {
    let mut names: Vec<String> = TOPICS.iter().map(|(name, ..)| (*name).into()).collect();
    names.extend((0..LOST).map(|number| format!("torture.lost.{number}")));
    names
}

/// The index of the `nth` missing topic.
pub fn lost(nth: usize) -> usize {
    FIRST_LOST + nth.min(LOST - 1)
}

/// Creates the topics that exist from the beginning; `make` creates one.
pub fn create(mut make: impl FnMut(&str, i32, &[(&str, &str)]) -> Result<()>) -> Result<()> {
    TOPICS.iter().try_for_each(|(name, partitions, configs)| make(name, *partitions, configs))
}
