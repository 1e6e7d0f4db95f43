//! The event store: names of streams, what an append may do, and what readers of the whole store have not seen yet.

pub mod append;
pub mod cursor;
pub mod name;
