//! Owns the context of trigger functions.
//!
//! Runs in: client backends, and workers whose statements fire triggers.

use std::ffi::c_int;

use pgrx::prelude::*;

use super::compat;
use super::function::Arguments;
use super::relation::OpenRelation;

/// The circumstances in which a trigger function was called. An ERROR if it was not called as a trigger.
pub fn firing(arguments: &Arguments) -> &pg_sys::TriggerData {
    // SAFETY: the call is alive; its context is trigger data exactly if the node tag says so.
    unsafe {
        let context = (*arguments.call()).context;
        if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_TriggerData {
            ereport!(
                ERROR,
                PgSqlErrorCode::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
                "this function can only be called as a trigger"
            );
        }
        &*context.cast::<pg_sys::TriggerData>()
    }
}

/// A C function that Postgres can call.
pub type PgFunction = unsafe extern "C-unwind" fn(pg_sys::FunctionCallInfo) -> pg_sys::Datum;

/// The triggers of an open table that call this C function, whatever the name of the SQL function is.
pub fn calling(relation: &OpenRelation, function: PgFunction) -> impl Iterator<Item = &pg_sys::Trigger> {
    all(relation).iter().filter(move |trigger| {
        let mut found = pg_sys::FmgrInfo::default();
        // SAFETY: in a transaction; the function is only looked up.
        unsafe { pg_sys::fmgr_info(trigger.tgfoid, &mut found) };
        found.fn_addr.is_some_and(|calls| std::ptr::fn_addr_eq(calls, function))
    })
}

fn all(relation: &OpenRelation) -> &[pg_sys::Trigger] {
    // SAFETY: the relation is open; `numtriggers` is the length of the array.
    unsafe {
        relation.data().trigdesc.as_ref().map_or(&[][..], |described| {
            std::slice::from_raw_parts(described.triggers, described.numtriggers as usize)
        })
    }
}

fn heeds_insertions(trigger: &pg_sys::Trigger) -> bool {
    trigger.tgtype as u32 & pg_sys::TRIGGER_TYPE_INSERT != 0
}

/// Whether any trigger of an open table heeds insertions.
#[must_use]
pub fn has_any_on_insertion(relation: &OpenRelation) -> bool {
    all(relation).iter().any(heeds_insertions)
}

/// Whether one trigger heeds insertions into an open table: one that always calls this C function.
#[must_use]
pub fn is_only_on_insertion(relation: &OpenRelation, function: PgFunction) -> bool {
    let enabled = [pg_sys::TRIGGER_FIRES_ON_ORIGIN, pg_sys::TRIGGER_FIRES_ALWAYS];
    let mut ours = calling(relation, function).filter(|trigger| {
        heeds_insertions(trigger) && trigger.tgqual.is_null() && enabled.contains(&(trigger.tgenabled as u8))
    });
    all(relation).iter().filter(|trigger| heeds_insertions(trigger)).count() == 1 && ours.next().is_some()
}

// For one guard per row instead of one per call.
mod raw {
    use pgrx::pg_sys;
    use std::ffi::c_int;

    unsafe extern "C-unwind" {
        pub fn tuplestore_select_read_pointer(store: *mut pg_sys::Tuplestorestate, reader: c_int);
        pub fn tuplestore_gettupleslot(
            store: *mut pg_sys::Tuplestorestate,
            forward: bool,
            copy: bool,
            slot: *mut pg_sys::TupleTableSlot,
        ) -> bool;
    }
}

/// The rows before or after a statement, in the order in which it changed them.
pub struct TransitionRows {
    store: *mut pg_sys::Tuplestorestate,
    reader: c_int,
    slot: *mut pg_sys::TupleTableSlot,
}

impl TransitionRows {
    /// Reads one of the transition tables of a firing trigger from its beginning.
    ///
    /// # Safety
    /// The table is one of this trigger's.
    #[must_use]
    pub unsafe fn of(firing: &pg_sys::TriggerData, store: *mut pg_sys::Tuplestorestate) -> Self {
        // SAFETY: the rows of the firing trigger, of its relation, which is open. Others read them by readers of their own.
        unsafe {
            let reader = pg_sys::tuplestore_alloc_read_pointer(store, pg_sys::EXEC_FLAG_REWIND as c_int);
            pg_sys::tuplestore_select_read_pointer(store, reader);
            pg_sys::tuplestore_rescan(store);
            let described = (*firing.tg_relation).rd_att;
            let slot = pg_sys::MakeSingleTupleTableSlot(described, &raw const pg_sys::TTSOpsMinimalTuple);
            Self { store, reader, slot }
        }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> i64 {
        // SAFETY: alive until the trigger returns.
        unsafe { pg_sys::tuplestore_tuple_count(self.store) }
    }

    /// A slot with the next row, which is alive until the one after it is read.
    pub fn next_row(&mut self) -> Option<*mut pg_sys::TupleTableSlot> {
        // SAFETY: as above; the slot has the rows' descriptor. Code that is run between two rows may have used another reader.
        let is_row = unsafe {
            compat::guarded(|| {
                raw::tuplestore_select_read_pointer(self.store, self.reader);
                raw::tuplestore_gettupleslot(self.store, true, false, self.slot)
            })
        };
        is_row.then_some(self.slot)
    }
}

impl Drop for TransitionRows {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: made by `of`; nothing refers to its row any more.
            unsafe { pg_sys::ExecDropSingleTupleTableSlot(self.slot) }
        }
    }
}
