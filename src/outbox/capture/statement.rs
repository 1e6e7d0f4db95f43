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
use crate::pg::trigger::TransitionRows;

/// How many comparisons share memory: each may fetch values of a gigabyte at most, and hardly any does.
const USES: u32 = 16;

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
    // SAFETY: both are tables of the firing trigger.
    let [mut old, mut new] =
        [old, new].map(|rows| rows.map(|rows| unsafe { TransitionRows::of(firing, rows) }));
    let counts = [&old, &new].map(|rows| rows.as_ref().map(TransitionRows::count));
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
    let mut scratch = Scratch::new();
    loop {
        pgrx::check_for_interrupts!();
        let [before, after] = [&mut old, &mut new].map(|rows| {
            let slot = rows.as_mut().and_then(TransitionRows::next_row)?;
            // SAFETY: the slot holds the row until the next one is read.
            Some(unsafe { Row::of_slot(slot) })
        });
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

/// Memory for comparisons of rows.
struct Scratch {
    context: pg_sys::MemoryContext,
    used: u32,
}

impl Scratch {
    fn new() -> Self {
        // SAFETY: deleted with the memory of the trigger's call.
        let context = unsafe {
            pg_sys::AllocSetContextCreateExtended(
                pg_sys::CurrentMemoryContext,
                c"event_outbox comparison".as_ptr(),
                pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
            )
        };
        Self { context, used: 0 }
    }

    fn used<R>(&mut self, work: impl FnOnce() -> R) -> R {
        self.used += 1;
        // SAFETY: nothing of what the work allocates is used afterwards.
        unsafe {
            let before = pg_sys::MemoryContextSwitchTo(self.context);
            let result = work();
            pg_sys::MemoryContextSwitchTo(before);
            if self.used.is_multiple_of(USES) {
                pg_sys::MemoryContextReset(self.context);
            }
            result
        }
    }
}
