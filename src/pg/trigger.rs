//! Owns the context of trigger functions.
//!
//! Runs in: client backends, and workers whose statements fire triggers.

use pgrx::prelude::*;

use super::function::Arguments;

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
