//! Owns captures by statement: the rows that a statement has changed become events together, at its end.
//!
//! Runs in: client backends, and workers that write to captured tables.

use event_outbox_policy::event::capture::change::{self, Update};
use event_outbox_policy::event::capture::definition::Operation;
use pgrx::prelude::*;

use super::cache::Capture;
use super::event::Change;
use super::row::{self, Row};
use super::writer::Writer;
use crate::outbox::emit::append::Table;
use crate::outbox::emit::topic_grants;

/// Emits the changes of the statement for which the trigger fires.
pub fn emit(capture: &Capture, firing: &pg_sys::TriggerData, operation: Operation) {
    let (old, new) = match operation {
        Operation::Insert => (None, Some(firing.tg_newtable)),
        Operation::Delete => (Some(firing.tg_oldtable), None),
        _ => (Some(firing.tg_oldtable), Some(firing.tg_newtable)),
    };
    if old.into_iter().chain(new).any(|rows| rows.is_null()) {
        ereport!(
            ERROR,
            PgSqlErrorCode::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
            "outbox.capture_changes() needs the rows of the statement"
        );
    }
    let [mut old, mut new] = [old, new].map(|rows| rows.map(|rows| Rows::of(firing.tg_relation, rows)));
    let counts = [&old, &new].map(|rows| rows.as_ref().map(Rows::count));
    if counts.iter().flatten().all(|count| *count == 0) {
        return;
    }
    // Rows before and after are kept in one order.
    if matches!(counts, [Some(before), Some(after)] if before != after) {
        error!("a statement has {counts:?} rows before and after its change");
    }
    let events = Table::open();
    let owner = capture.owner(firing.tg_relation);
    topic_grants::check_of(owner.role(), &capture.definition.topic, events.owner());
    let _format = capture.format();
    let mut writer = Writer::on(&events);
    let scratch = Scratch::new();
    loop {
        pgrx::check_for_interrupts!();
        let [before, after] = [&mut old, &mut new].map(|rows| rows.as_mut().and_then(Rows::next));
        if before.is_none() && after.is_none() {
            break;
        }
        let update = match (&before, &after) {
            (Some(old), Some(new)) => scratch.used(|| row::compare(&capture.key, &capture.columns, old, new)),
            _ => Update::Nothing,
        };
        for action in change::actions(operation, update, capture.definition.style).into_iter().flatten() {
            writer.write(&Change::of(capture, action, update, before, after));
        }
    }
    writer.finish();
}

/// The rows of a transition table, in the order in which they were changed.
struct Rows {
    store: *mut pg_sys::Tuplestorestate,
    reader: i32,
    slot: *mut pg_sys::TupleTableSlot,
}

impl Rows {
    fn of(relation: pg_sys::Relation, store: *mut pg_sys::Tuplestorestate) -> Self {
        // SAFETY: the rows of the firing trigger, of its relation, which is open. Others read them by readers of their own.
        unsafe {
            let reader = pg_sys::tuplestore_alloc_read_pointer(store, pg_sys::EXEC_FLAG_REWIND as i32);
            pg_sys::tuplestore_select_read_pointer(store, reader);
            pg_sys::tuplestore_rescan(store);
            let slot =
                pg_sys::MakeSingleTupleTableSlot((*relation).rd_att, &raw const pg_sys::TTSOpsMinimalTuple);
            Self { store, reader, slot }
        }
    }

    fn count(&self) -> i64 {
        // SAFETY: alive until the trigger returns.
        unsafe { pg_sys::tuplestore_tuple_count(self.store) }
    }

    /// The next row, alive until the one after it is read.
    fn next(&mut self) -> Option<Row> {
        // SAFETY: as above; the slot has the rows' descriptor. Code that conversions run may have read by another reader.
        unsafe {
            pg_sys::tuplestore_select_read_pointer(self.store, self.reader);
            pg_sys::tuplestore_gettupleslot(self.store, true, false, self.slot)
                .then(|| Row::of_slot(self.slot))
        }
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: made by `of`; nothing refers to its row any more.
            unsafe { pg_sys::ExecDropSingleTupleTableSlot(self.slot) }
        }
    }
}

/// Memory for one row's comparison.
struct Scratch(pg_sys::MemoryContext);

impl Scratch {
    fn new() -> Self {
        // SAFETY: deleted with the memory of the trigger's call.
        Self(unsafe {
            pg_sys::AllocSetContextCreateExtended(
                pg_sys::CurrentMemoryContext,
                c"event_outbox comparison".as_ptr(),
                pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
            )
        })
    }

    fn used<R>(&self, work: impl FnOnce() -> R) -> R {
        // SAFETY: nothing of what the work allocates is used afterwards.
        unsafe {
            let before = pg_sys::MemoryContextSwitchTo(self.0);
            let result = work();
            pg_sys::MemoryContextSwitchTo(before);
            pg_sys::MemoryContextReset(self.0);
            result
        }
    }
}
