//! Owns the bound of the settlements that a crash may undo, and with them of the events that it may publish again.
//!
//! Runs in: a relay's background worker, main thread.
//!
//! Settlements do not wait for the disk. Left alone, they would reach it within three times `wal_writer_delay`: at full
//! speed that is more events than are ever in flight. So the launcher is asked to flush them, and a settlement waits for
//! that, or flushes by itself, if it would exceed the bound together with those before.

use crate::pg::durability::{self, Place};
use crate::worker::slots;

/// The settlements that are not known to be on disk.
#[derive(Debug, Default)]
pub struct Unflushed {
    end: Option<Place>,
    events: usize,
}

impl Unflushed {
    /// Makes room for the settlement of so many events: afterwards at most `most` are settled and not on disk, or these
    /// alone. Within the transaction of that settlement.
    pub fn make_room(&self, events: usize, most: usize) {
        if let Some(end) = self.end
            && self.events + events > most
        {
            durability::flush(end);
        }
    }

    /// A settlement of so many events was committed.
    pub fn add(&mut self, events: usize, most: usize) {
        let has_flushed = self.events + events > most;
        self.events = if has_flushed { events } else { self.events + events };
        let end = Place::of_last_commit();
        self.end = Some(end);
        if self.events > most / 2 {
            slots::all().request_flush(end);
        }
    }
}
