//! Owns the insertion of many events at once, without the executor: what [`Table::append`] does for one, with one WAL record
//! for each page.
//!
//! Runs in: client backends, and workers that write to captured tables.

use pgrx::prelude::*;

use super::append::{self, Layout, Table, Values};
use super::backlog;
use crate::outbox::relay::registration;
use crate::pg::relation::{self, OpenRelation};
use crate::pg::{compat, varlena};

/// How many rows are handed to the table at once: as many as COPY buffers.
const ROWS: usize = 1000;

/// How many bytes of payloads wait at most to be handed over, besides the last one.
const BYTES: usize = 4 << 20;

/// The place of the payload among the values.
const PAYLOAD: usize = 5;

/// Inserts events in the order in which they are added.
pub struct Appender<'a> {
    table: &'a Table,
    layout: Layout,
    index: OpenRelation,
    info: *mut pg_sys::IndexInfo,
    bulk: pg_sys::BulkInsertState,
    slots: Vec<*mut pg_sys::TupleTableSlot>,
    filled: usize,
    bytes: usize,
    context: pg_sys::MemoryContext,
}

impl<'a> Appender<'a> {
    /// Begins. `None` if the table requires INSERTs in SQL.
    #[must_use]
    pub fn begin(table: &'a Table) -> Option<Self> {
        let layout = table.layout()?;
        // SAFETY: in a transaction, which needs its id before an event gets one. The index is open as long as `info` is used;
        // the context is deleted in `finish`, or with its parent after an ERROR.
        unsafe {
            pg_sys::GetTopTransactionId();
            registration::wake_at_commit();
            let index = OpenRelation::open(layout.primary_key(), relation::WRITE);
            let info = pg_sys::BuildIndexInfo(index.raw());
            let context = pg_sys::AllocSetContextCreateExtended(
                pg_sys::CurrentMemoryContext,
                c"event_outbox events".as_ptr(),
                pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
            );
            let bulk = pg_sys::GetBulkInsertState();
            let slots = Vec::new();
            Some(Self { table, layout, index, info, bulk, slots, filled: 0, bytes: 0, context })
        }
    }

    /// Adds the event that `make` makes in a memory context of the appender's. Gives the values back if its id is one that
    /// the table may refuse.
    #[must_use]
    pub fn add(&mut self, make: impl FnOnce() -> Values) -> Option<Values> {
        // SAFETY: the context is alive; an ERROR resets the current context by itself.
        let values = unsafe {
            let before = pg_sys::MemoryContextSwitchTo(self.context);
            let values = make();
            let values = append::numbered(&values).unwrap_or(values);
            pg_sys::MemoryContextSwitchTo(before);
            values
        };
        let id = compat::next_value(self.layout.sequence());
        if id <= 0 {
            return Some(values);
        }
        backlog::count();
        // SAFETY: the slots are made for the table, and live until `finish`; a payload is a value of variable length.
        unsafe {
            if self.filled == self.slots.len() {
                self.slots.push(pg_sys::table_slot_create(self.table.raw(), std::ptr::null_mut()));
            }
            let slot = self.slots[self.filled];
            pg_sys::ExecClearTuple(slot);
            self.layout.fill(slot, id, &values);
            self.bytes += values[PAYLOAD].map_or(0, |payload| varlena::length(payload));
        }
        self.filled += 1;
        if self.filled == ROWS || self.bytes > BYTES {
            self.flush();
        }
        None
    }

    fn flush(&mut self) {
        let slots = &self.slots[..self.filled];
        // SAFETY: the slots hold rows of the table, which is open and locked for writing.
        unsafe {
            let command = pg_sys::GetCurrentCommandId(true);
            if !slots.is_empty() {
                compat::guarded(|| compat::insert_rows(self.table.raw(), slots, command, self.bulk));
            }
            for slot in slots {
                self.add_to_index(*slot);
                pg_sys::ExecClearTuple(*slot);
            }
            pg_sys::MemoryContextReset(self.context);
        }
        self.filled = 0;
        self.bytes = 0;
    }

    /// # Safety
    /// The slot holds a row that was just inserted.
    unsafe fn add_to_index(&self, slot: *mut pg_sys::TupleTableSlot) {
        // SAFETY: as promised by the caller; the index covers the id alone.
        unsafe {
            let (mut key, mut is_null) = (self.layout.id_in(slot), false);
            pg_sys::index_insert(
                self.index.raw(),
                &mut key,
                &mut is_null,
                &raw mut (*slot).tts_tid,
                self.table.raw(),
                pg_sys::IndexUniqueCheck::UNIQUE_CHECK_YES,
                false,
                self.info,
            );
        }
    }

    /// Inserts what was added, so that later commands of the transaction see it.
    pub fn finish(mut self) {
        self.flush();
        let slots = std::mem::take(&mut self.slots);
        // SAFETY: nothing refers to these any more.
        unsafe {
            slots.into_iter().for_each(|slot| pg_sys::ExecDropSingleTupleTableSlot(slot));
            pg_sys::FreeBulkInsertState(self.bulk);
            pg_sys::MemoryContextDelete(self.context);
            pg_sys::CommandCounterIncrement();
        }
    }
}
