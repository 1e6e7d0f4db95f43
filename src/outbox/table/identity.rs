//! Owns the identity of a row of `outbox.events`, by which the relay finds the row again after reading it.
//!
//! Runs in: the relay's main thread.

use pgrx::prelude::*;

/// The identity of a row that was read. Another row may get its ctid, or even its id, later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowIdentity {
    /// The event's position.
    pub id: i64,
    /// The event's own identity.
    pub event_id: [u8; 16],
    /// The row's place when it was read.
    pub place: RowPlace,
    /// The fingerprint of its content, if the content was read:
    /// [`Event::fingerprint`](event_outbox_policy::event::draft::Event::fingerprint).
    pub content: Option<u64>,
}

/// The place of a row when it was read: block number and offset, as one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowPlace(u64);

impl RowPlace {
    pub(super) fn of(tid: pg_sys::ItemPointerData) -> Self {
        let (block, offset) = pgrx::itemptr::item_pointer_get_both(tid);
        Self(u64::from(block) << 16 | u64::from(offset))
    }

    pub(super) fn block(self) -> u32 {
        (self.0 >> 16) as u32
    }

    /// The place as a Postgres tid.
    #[must_use]
    pub fn tid(self) -> pg_sys::ItemPointerData {
        let mut tid = pg_sys::ItemPointerData::default();
        pgrx::itemptr::item_pointer_set_all(&mut tid, self.block(), self.0 as u16);
        tid
    }
}
