//! The topics that are written to, and what is special about each.

use crate::Result;

/// Events of these topics are published, whatever happens: their names and partitions.
const STEADY: [(&str, i32); 3] = [("torture.a", 6), ("torture.b", 3), ("torture.c", 1)];

/// This one is deleted and created again.
pub const VOLATILE: usize = 3;

/// The first of those that do not exist until somebody creates them, one after the other.
const FIRST_LOST: usize = 4;

/// How many of them there are.
pub const LOST: usize = 60;

/// Keys of each topic that exists.
pub const KEYS: usize = 40;

/// Partitions of the topics that do not exist from the beginning.
pub const PARTITIONS: i32 = 2;

/// A partition that no topic has.
pub const NO_PARTITION: i32 = 97;

/// How many topics exist from the beginning.
pub const EXISTING: usize = 4;

/// The names of all topics; elsewhere they go by their number in this list.
pub fn names() -> Vec<String> {
    let mut names: Vec<String> = STEADY.iter().map(|(name, _)| (*name).into()).collect();
    names.push("torture.volatile".into());
    names.extend((0..LOST).map(|number| format!("torture.lost.{number}")));
    names
}

/// The number of the topic that is created as the `nth` of those that do not exist.
pub fn lost(nth: usize) -> usize {
    FIRST_LOST + nth.min(LOST - 1)
}

/// Creates the topics that exist from the beginning, by a function that makes one of a name with partitions.
pub fn create(mut make: impl FnMut(&str, i32) -> Result<()>) -> Result<()> {
    for (name, partitions) in STEADY {
        make(name, partitions)?;
    }
    make(&names()[VOLATILE], PARTITIONS)
}
