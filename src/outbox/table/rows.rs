//! Owns the reading and deleting of rows of `outbox.events` without the executor.
//!
//! It does what `SELECT … WHERE id > $1 ORDER BY id LIMIT $2` and `DELETE … WHERE ctid = $1 AND event_id =
//! $2` do, with the same access methods. It reads row by row from the buffers, while the executor copies each
//! row: that is most of the work of the relay's main thread. `docs/performance.md` shows what it saves.
//!
//! Runs in: the relay's main thread.

use std::cell::RefCell;
use std::ffi::c_int;

use pgrx::prelude::*;

use super::columns::{Column, Positions};
use super::identity::RowIdentity;
use super::row::EventRow;
use super::scan::IdScan;
use crate::pg::compat;
use crate::pg::relation::{self, OpenRelation};

/// The open table `outbox.events`. The lock is held until the end of the transaction.
pub struct Events {
    relation: OpenRelation,
    slot: *mut pg_sys::TupleTableSlot,
    columns: Positions,
    /// Detoasted copies of values of the row in the slot.
    unpacked: RefCell<Vec<*mut pg_sys::varlena>>,
}

impl Events {
    /// Opens the table for reading. Call it in a transaction.
    #[must_use]
    pub fn open_to_read(table: pg_sys::Oid) -> Self {
        Self::open(table, relation::READ)
    }

    /// Opens the table for deleting. Call it in a transaction.
    #[must_use]
    pub fn open_to_delete(table: pg_sys::Oid) -> Self {
        Self::open(table, relation::WRITE)
    }

    fn open(table: pg_sys::Oid, lock: pg_sys::LOCKMODE) -> Self {
        let relation = OpenRelation::open(table, lock);
        let columns = Positions::of(&relation);
        // SAFETY: the relation is open, and stays open longer than the slot lives.
        let slot = unsafe { pg_sys::table_slot_create(relation.raw(), std::ptr::null_mut()) };
        Self { relation, slot, columns, unpacked: RefCell::default() }
    }

    /// Reads up to `limit` rows with ids above `after`, with the active snapshot and in the order of their
    /// ids, until `visit` returns `false`. Returns the number of rows that were visited.
    pub fn read_new(&self, after: i64, limit: usize, mut visit: impl FnMut(&EventRow<'_>) -> bool) -> usize {
        let scan = IdScan::begin(&self.relation, after);
        let mut visited = 0;
        while visited < limit && scan.next(self.slot, self.columns.width) {
            visited += 1;
            // SAFETY: the slot holds the row until the next is read.
            let row = unsafe { EventRow::new(self.slot, &self.columns, &self.unpacked) };
            let goes_on = visit(&row);
            self.free_unpacked();
            if !goes_on {
                break;
            }
        }
        visited
    }

    /// Frees the detoasted copies, when the row is no longer used.
    fn free_unpacked(&self) {
        // SAFETY: each is our own copy, freed once.
        self.unpacked.borrow_mut().drain(..).for_each(|value| unsafe { pg_sys::pfree(value.cast()) });
    }

    /// Looks, with the active snapshot, for rows that are no longer at the place where they were read.
    /// Returns the unchanged rows with their present places, and the ids of the changed ones. The others are
    /// gone.
    #[must_use]
    pub fn find_moved(&self, rows: &[RowIdentity]) -> (Vec<RowIdentity>, Vec<i64>) {
        let (mut same, mut changed) = (Vec::new(), Vec::new());
        for row in rows {
            self.read_new(row.id.saturating_sub(1), 1, |found| {
                if found.id() == row.id && found.event_id() == row.event_id {
                    let place = found.identity(None).place;
                    if place == row.place || row.content.is_none() || found.content() == row.content {
                        same.push(RowIdentity { place, ..*row });
                    } else {
                        changed.push(row.id);
                    }
                }
                false
            });
        }
        (same, changed)
    }

    /// Whether rows can be deleted without the executor: the table has no trigger on deletion and no rule.
    #[must_use]
    pub fn can_delete_in_place(&self) -> bool {
        // SAFETY: the relation is open.
        unsafe {
            let relation = self.relation.data();
            let has_delete_trigger = relation.trigdesc.as_ref().is_some_and(|triggers| {
                triggers.trig_delete_before_row
                    || triggers.trig_delete_after_row
                    || triggers.trig_delete_before_statement
                    || triggers.trig_delete_after_statement
                    || triggers.trig_delete_old_table
            });
            !has_delete_trigger && relation.rd_rules.is_null()
        }
    }

    /// Deletes these rows at their places, with the active snapshot. Returns the rows that are not there any
    /// more: they were changed, moved or deleted after they were read. Waits up to `lock_timeout` for a
    /// locked row, and raises an ERROR then.
    #[must_use]
    pub fn delete_in_place(&self, rows: &[RowIdentity]) -> Vec<RowIdentity> {
        // SAFETY: in a transaction with an active snapshot; the relation is open.
        let (command, snapshot) = unsafe { (pg_sys::GetCurrentCommandId(true), pg_sys::GetActiveSnapshot()) };
        let blocks = self.relation.blocks();
        // In the order of their places, so that each page is visited once.
        let mut rows = rows.to_vec();
        rows.sort_unstable_by_key(|row| row.place);
        // TRUNCATE and VACUUM FULL leave a shorter table. Nothing can shorten it while we hold the lock.
        let there = rows.partition_point(|row| row.place.block() < blocks);
        let mut not_found = rows.split_off(there);
        let mut left = rows.as_slice();
        while let Some(missing) = self.delete_until_missing(left, command, snapshot) {
            not_found.push(left[missing]);
            left = &left[missing + 1..];
        }
        // SAFETY: in a transaction. Later commands of it do not see the deleted rows.
        unsafe { pg_sys::CommandCounterIncrement() };
        not_found
    }

    /// Deletes these rows up to the first one that is not found, and returns its index.
    fn delete_until_missing(
        &self,
        rows: &[RowIdentity],
        command: pg_sys::CommandId,
        snapshot: pg_sys::Snapshot,
    ) -> Option<usize> {
        let event_id = self.columns.at(Column::EventId);
        let width = c_int::try_from(event_id + 1).unwrap_or(c_int::MAX);
        // SAFETY: relation, slot and snapshot are alive. While the snapshot sees a row at this place, no
        // other row can get the place, so the deleted row is the compared one. An ERROR leaves nothing
        // behind.
        unsafe {
            compat::guarded(|| {
                rows.iter().position(|row| {
                    let mut tid = row.place.tid();
                    if !compat::fetch_row_version(self.relation.raw(), &mut tid, snapshot, self.slot) {
                        return true;
                    }
                    compat::raw::slot_getsomeattrs_int(self.slot, width);
                    let found = (*(*self.slot).tts_values.add(event_id)).cast_mut_ptr::<[u8; 16]>();
                    *found != row.event_id
                        || !compat::delete_row(self.relation.raw(), &mut tid, command, snapshot)
                })
            })
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        // When an ERROR unwinds, the end of the transaction frees the slot.
        if !std::thread::panicking() {
            // SAFETY: pairs with `open`; the relation is closed after it.
            unsafe { pg_sys::ExecDropSingleTupleTableSlot(self.slot) }
        }
    }
}
