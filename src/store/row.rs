//! Owns the rows that an append stores and finds, by whichever way it reaches the tables.
//!
//! Runs in: client backends.

use pgrx::prelude::*;

/// What an event's row has behind its position.
pub type EventRow = [Option<pg_sys::Datum>; 11];

/// A stream that is locked until the end of the transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream {
    /// Identifies it.
    pub id: i64,
    /// It has ended.
    pub is_tombstoned: bool,
}
