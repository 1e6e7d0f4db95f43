//! Owns `outbox.try_emit()`, which stores a message that may be invalid. It calls `outbox.store_message()`
//! (`sql/outbox/intake.sql`).
//!
//! Runs in: client backends.

use event_outbox_policy::event::topic;
use pgrx::prelude::*;

use super::functions::json_of;
use super::topic_grants;
use crate::outbox::table::{EVENTS, INTAKE};
use crate::pg::function::{Arguments, sql_function};
use crate::pg::spi::{self, Access, Statement};
use crate::pg::user_context::{Owner, UserContext};

static STORE_MESSAGE: Statement = Statement::new(
    c"SELECT t.status, t.attempt, t.event_id, t.error FROM outbox.store_message($1, $2, $3, $4, $5, $6, $7, $8) AS t",
    &[
        pg_sys::TEXTOID,
        pg_sys::TEXTOID,
        pg_sys::TEXTOID,
        pg_sys::TEXTOID,
        pg_sys::TEXTOID,
        pg_sys::JSONBOID,
        pg_sys::UUIDOID,
        pg_sys::INT4OID,
    ],
);

sql_function!(outbox_try_emit, pg_finfo_outbox_try_emit, try_emit);
sql_function!(outbox_try_emit_json, pg_finfo_outbox_try_emit_json, try_emit_json);

fn try_emit(arguments: &Arguments) -> Option<pg_sys::Datum> {
    store_message(arguments, arguments.datum(2))
}

fn try_emit_json(arguments: &Arguments) -> Option<pg_sys::Datum> {
    store_message(arguments, arguments.datum(2).map(json_of))
}

fn store_message(arguments: &Arguments, payload: Option<pg_sys::Datum>) -> Option<pg_sys::Datum> {
    // A missing right is the caller's error, and raised. An invalid or missing topic is an error of the
    // message.
    if let Some(topic) = arguments.text(1).filter(|name| topic::is_valid(name)) {
        topic_grants::check(topic, Owner::of(EVENTS));
    }
    let mut values: [_; 8] = std::array::from_fn(|at| arguments.datum(at));
    values[2] = payload;
    let _owner = UserContext::switch_to(Owner::of(INTAKE));
    spi::connected(|| STORE_MESSAGE.execute(&values, Access::Write, 0).row(0).into_composite())
}
