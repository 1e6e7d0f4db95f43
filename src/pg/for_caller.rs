//! Functions that use the extension's tables for users who may not.
//!
//! `SECURITY DEFINER` would hide who calls, and these functions have to know: what a role may do depends on what it was granted.
//! So `f(…)` is declared with a symbol whose function is [`call_for_caller`], which calls `f_for(caller, …)`, written in SQL, as
//! the owner of the tables of its schema. Nobody has the right to call that one.
//!
//! Runs in: client backends.

use pgrx::prelude::*;

use super::backend;
use super::catalog::Member;
use super::function::Arguments;
use super::spi::{self, Access, Statement};
use super::user_context::{Owner, UserContext};
use super::user_error::UserError;

/// The function that is named after `$1`, in its schema and extension, and takes the caller before the arguments of `$1`; and
/// how many roles own relations of the schema. It writes several of them, and must lend the rights of one owner to no other.
static IMPLEMENTATION: Statement = Statement::new(
    c"SELECT i.oid, \
             (SELECT pg_catalog.count(DISTINCT c.relowner) FROM pg_catalog.pg_class AS c \
               WHERE c.relnamespace OPERATOR(pg_catalog.=) f.pronamespace) \
        FROM pg_catalog.pg_proc AS f \
        JOIN pg_catalog.pg_proc AS i ON i.pronamespace OPERATOR(pg_catalog.=) f.pronamespace \
             AND i.proname OPERATOR(pg_catalog.=) pg_catalog.concat(f.proname, '_for')::pg_catalog.name \
             AND i.proargtypes::pg_catalog.text OPERATOR(pg_catalog.=) pg_catalog.rtrim(pg_catalog.concat_ws( \
                     ' ', 'pg_catalog.regrole'::pg_catalog.regtype::pg_catalog.oid, f.proargtypes::pg_catalog.text)) \
             AND i.prorettype OPERATOR(pg_catalog.=) f.prorettype \
             AND i.proretset OPERATOR(pg_catalog.=) f.proretset \
        JOIN pg_catalog.pg_depend AS d ON d.classid OPERATOR(pg_catalog.=) f.tableoid \
             AND d.objid OPERATOR(pg_catalog.=) f.oid AND d.deptype OPERATOR(pg_catalog.=) 'e' \
        JOIN pg_catalog.pg_depend AS e ON e.classid OPERATOR(pg_catalog.=) i.tableoid \
             AND e.objid OPERATOR(pg_catalog.=) i.oid AND e.deptype OPERATOR(pg_catalog.=) 'e' \
             AND e.refobjid OPERATOR(pg_catalog.=) d.refobjid \
       WHERE f.oid OPERATOR(pg_catalog.=) $1",
    &[pg_sys::OIDOID],
);

/// Calls the function that does the work of the one that is called, with the caller, as the owner of this table of its schema.
#[must_use]
pub fn call_for_caller(arguments: &Arguments, table: Member) -> Option<pg_sys::Datum> {
    let function = arguments.function();
    let schema = table.schema().to_string_lossy();
    let (implementation, owners) =
        implementation(function).unwrap_or_else(|| unknown(function, &schema).raise());
    if owners != 1 {
        several_owners(&schema).raise();
    }
    let caller = backend::user();
    let _owner = UserContext::switch_to(Owner::of(table));
    // SAFETY: the statement above has compared the arguments and the result; the first argument is a role.
    unsafe { arguments.call_with(implementation, caller.into()) }
}

fn implementation(function: pg_sys::Oid) -> Option<(pg_sys::Oid, i64)> {
    spi::connected(|| {
        let rows = IMPLEMENTATION.execute(&[function.into_datum()], Access::Write, 1);
        let row = rows.iter().next()?;
        Some((row.get(1)?, row.get(2)?))
    })
}

fn several_owners(schema: &str) -> UserError {
    UserError {
        code: PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        message: format!("the tables of the schema {schema} belong to different roles"),
        detail: format!("The functions of the schema {schema} use the rights of the owner of all of them."),
        hint: format!(
            "Use ALTER ... OWNER TO to give all tables and views of the schema {schema} to one role."
        ),
    }
}

/// Only a function of someone else's could be without: it was declared with this symbol.
fn unknown(function: pg_sys::Oid, schema: &str) -> UserError {
    UserError {
        code: PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        message: format!("this function does not belong to the schema {schema}"),
        detail: format!("The function with the oid {} calls the library of event_outbox.", function.to_u32()),
        hint: format!("Call the functions of the schema {schema}."),
    }
}
