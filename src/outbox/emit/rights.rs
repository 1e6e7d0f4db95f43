//! Owns the check that a role may call the first form of `outbox.emit()` or `outbox.emit_bytes()`, for functions that anybody
//! may call.
//!
//! Runs in: client backends.

use pgrx::prelude::*;

use crate::pg::user_error::UserError;

/// The first forms.
const EMIT: &str = "outbox.emit(pg_catalog.text, pg_catalog.jsonb, pg_catalog.text, pg_catalog.text, pg_catalog.jsonb, \
                    pg_catalog.uuid, pg_catalog.int4)";
const EMIT_BYTES: &str = "outbox.emit_bytes(pg_catalog.text, pg_catalog.bytea, pg_catalog.bytea, pg_catalog.text, \
                          pg_catalog.jsonb, pg_catalog.uuid, pg_catalog.int4, pg_catalog.text)";

/// Raises an error unless the current user may emit in one way or another.
pub fn require_either(function: &str) {
    if !(may_call(EMIT) || may_call(EMIT_BYTES)) {
        refuse(function);
    }
}

fn may_call(function: &str) -> bool {
    let arguments = [function.into_datum(), "EXECUTE".into_datum()];
    // SAFETY: in a transaction; the function takes a signature and a privilege, and checks the current user's.
    unsafe { pgrx::direct_function_call(pg_sys::has_function_privilege_name, &arguments) }.unwrap_or(false)
}

fn refuse(function: &str) -> ! {
    UserError {
        code: PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        message: format!("permission denied for function {function}"),
        detail: "It requires the right to call emit() or emit_bytes().".into(),
        hint: "An administrator can grant it: the guide on installation shows the statement.".into(),
    }
    .raise()
}
