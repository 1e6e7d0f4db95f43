//! Owns the check that a role may call the first form of `outbox.emit()` or `outbox.emit_bytes()`, for functions that anybody
//! may call.
//!
//! Runs in: client backends.

use std::cell::Cell;

use pgrx::prelude::*;

use crate::outbox::table::EVENTS;
use crate::pg::function::Arguments;
use crate::pg::spi::{self, Access, Statement};
use crate::pg::user_context::{Owner, UserContext};
use crate::pg::user_error::UserError;

/// A function that is granted to callers. Who may call its first form may call those with further arguments.
#[derive(Debug, Clone, Copy)]
pub enum First {
    /// `outbox.emit()`.
    Emit,
    /// `outbox.emit_bytes()`.
    EmitBytes,
}

/// Their first forms.
static FORMS: [Statement; 2] = [
    Statement::new(
        c"SELECT 'outbox.emit(text, jsonb, text, text, jsonb, uuid, integer)'::pg_catalog.regprocedure::pg_catalog.oid",
        &[],
    ),
    Statement::new(
        c"SELECT 'outbox.emit_bytes(text, bytea, bytea, text, jsonb, uuid, integer, text)'\
          ::pg_catalog.regprocedure::pg_catalog.oid",
        &[],
    ),
];

thread_local! {
    /// Their oids, by those of the functions that asked.
    static KNOWN: Cell<[(pg_sys::Oid, pg_sys::Oid); 2]> =
        const { Cell::new([(pg_sys::InvalidOid, pg_sys::InvalidOid); 2]) };
}

/// An ERROR if the caller may not call the first form of the function.
pub fn require(arguments: &Arguments, first: First) {
    if !may_call(arguments, first) {
        refuse(["emit", "emit_bytes"][first as usize], "the first form of this function");
    }
}

/// An ERROR if the caller may not emit in one way or another.
pub fn require_either(arguments: &Arguments, function: &str) {
    if !(may_call(arguments, First::Emit) || may_call(arguments, First::EmitBytes)) {
        refuse(function, "emit() or emit_bytes()");
    }
}

fn may_call(arguments: &Arguments, first: First) -> bool {
    let arguments = [form(arguments.function(), first).into_datum(), "EXECUTE".into_datum()];
    // SAFETY: in a transaction; the function takes an oid and a privilege, and checks the current user's.
    unsafe { pgrx::direct_function_call(pg_sys::has_function_privilege_id, &arguments) }.unwrap_or(false)
}

/// The oid of the first form, for the function `this`: another one has that oid if the extension was created again.
fn form(this: pg_sys::Oid, first: First) -> pg_sys::Oid {
    let (mut known, at) = (KNOWN.get(), first as usize);
    if known[at].0 != this {
        let _owner = UserContext::switch_to(Owner::of(EVENTS));
        let found = spi::connected(|| FORMS[at].execute(&[], Access::Read, 1).row(0).get(1));
        known[at] = (this, found.unwrap_or(pg_sys::InvalidOid));
        KNOWN.set(known);
    }
    known[at].1
}

fn refuse(function: &str, required: &str) -> ! {
    UserError {
        code: PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        message: format!("permission denied for function {function}"),
        detail: format!("It requires the right to call {required}."),
        hint: "An administrator can grant it: the guide on installation shows the statement.".into(),
    }
    .raise()
}
