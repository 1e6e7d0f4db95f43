//! Which row of `outbox.events` is meant, after it was read. Runs in: the relay's main thread.

use pgrx::prelude::*;

/// Which row is meant, though others may have come to its ctid or even its id since it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowIdentity {
    /// The event's position.
    pub id: i64,
    /// The event's own identity.
    pub event_id: [u8; 16],
    /// Where the row lay.
    pub place: RowPlace,
    /// What was in it, where it was taken apart: [`Event::fingerprint`](event_outbox_policy::event::draft::Event::fingerprint).
    pub content: Option<u64>,
}

/// Where a row lay when it was read: block number and offset, as one number.
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

    /// The place as Postgres writes it.
    #[must_use]
    pub fn tid(self) -> pg_sys::ItemPointerData {
        let mut tid = pg_sys::ItemPointerData::default();
        pgrx::itemptr::item_pointer_set_all(&mut tid, self.block(), self.0 as u16);
        tid
    }
}
