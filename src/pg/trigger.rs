//! Owns the context of trigger functions.
//!
//! Runs in: client backends, and workers whose statements fire triggers.

use pgrx::prelude::*;

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
    // SAFETY: the relation is open; `numtriggers` is the length of the array.
    let triggers = unsafe {
        relation.data().trigdesc.as_ref().map_or(&[][..], |described| {
            std::slice::from_raw_parts(described.triggers, described.numtriggers as usize)
        })
    };
    triggers.iter().filter(move |trigger| {
        let mut found = pg_sys::FmgrInfo::default();
        // SAFETY: in a transaction; the function is only looked up.
        unsafe { pg_sys::fmgr_info(trigger.tgfoid, &mut found) };
        found.fn_addr.is_some_and(|calls| std::ptr::fn_addr_eq(calls, function))
    })
}
