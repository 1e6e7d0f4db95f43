//! The topics that are written to, and what is special about each.

use event_outbox_lab::Result;

/// A topic that exists from the beginning: its name, its partitions, and what is configured for it.
type Existing = (&'static str, i32, &'static [(&'static str, &'static str)]);

/// Events of all but the last are published, whatever happens.
const TOPICS: [Existing; EXISTING] = [
    ("torture.a", 6, &[]),
    ("torture.b", 3, &[]),
    ("torture.c", 1, &[]),
    ("torture.small", 2, &[("max.message.bytes", "50000")]),
    ("torture.volatile", PARTITIONS, &[]),
];

/// The broker takes only small batches for this one, where it can be told so.
pub const SMALL: usize = 3;

/// This one is deleted and created again.
pub const VOLATILE: usize = 4;

/// The first of those that do not exist until somebody creates them, one after the other.
const FIRST_LOST: usize = EXISTING;

/// How many of them there are.
pub const LOST: usize = 60;

/// Keys of each topic that exists.
pub const KEYS: usize = 40;

/// The text of a key. That of the last one is far longer than what is usual.
pub fn key_text(key: u16) -> String {
    let number = key.to_string();
    if usize::from(key) == KEYS - 1 { number.repeat(LONG_KEY / number.len()) } else { number }
}

/// Bytes of the long key: with the largest payload it fits into a batch of the topic for small ones.
const LONG_KEY: usize = 20_000;

/// Partitions of the topics that do not exist from the beginning.
pub const PARTITIONS: i32 = 2;

/// A partition that no topic has.
pub const NO_PARTITION: i32 = 97;

/// How many topics exist from the beginning.
pub const EXISTING: usize = 5;

/// The names of all topics; elsewhere they go by their number in this list.
pub fn names() -> Vec<String> {
    let mut names: Vec<String> = TOPICS.iter().map(|(name, ..)| (*name).into()).collect();
    names.extend((0..LOST).map(|number| format!("torture.lost.{number}")));
    names
}

/// The number of the topic that is created as the `nth` of those that do not exist.
pub fn lost(nth: usize) -> usize {
    FIRST_LOST + nth.min(LOST - 1)
}

/// Creates the topics that exist from the beginning, by a function that makes one of a name with partitions and
/// configuration.
pub fn create(mut make: impl FnMut(&str, i32, &[(&str, &str)]) -> Result<()>) -> Result<()> {
    TOPICS.iter().try_for_each(|(name, partitions, configs)| make(name, *partitions, configs))
}
