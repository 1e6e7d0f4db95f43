//! Owns `event_store.aggregate()`, which has a reducer make a state of a stream's events.
//!
//! Runs in: client backends.

use std::ffi::CString;

use event_outbox_policy::store::name;
use pgrx::prelude::*;

use super::STREAM;
use super::categories::{self, Privilege};
use crate::pg::function::Arguments;
use crate::pg::prepared::Prepared;
use crate::pg::refusal::{Refusal, refusing_function};
use crate::pg::spi::{self, Access, OrderedScans, Rows, Statement};
use crate::pg::user_context::{Owner, UserContext};
use crate::pg::user_error::UserError;

refusing_function!(event_store_aggregate, pg_finfo_event_store_aggregate, aggregate);

/// How many events are read at once.
const PAGE: usize = 200;

static SNAPSHOT: Statement = Statement::new(
    c"SELECT n.version, n.state FROM event_store.stream AS s \
        JOIN event_store.snapshot AS n ON n.stream_id OPERATOR(pg_catalog.=) s.id \
       WHERE s.name OPERATOR(pg_catalog.=) $1 AND n.reducer_version OPERATOR(pg_catalog.=) $2",
    &[pg_sys::TEXTOID, pg_sys::INT4OID],
);

static EVENTS: Statement = Statement::new(
    c"SELECT e.version, ROW(e.position, $1, e.version, e.event_id, e.type, e.data, e.metadata, e.causation_id, e.correlation_id, \
                            e.recorded_at)::event_store.recorded_event \
        FROM event_store.event AS e \
       WHERE e.stream_id OPERATOR(pg_catalog.=) \
             (SELECT s.id FROM event_store.stream AS s WHERE s.name OPERATOR(pg_catalog.=) $1) \
         AND e.version OPERATOR(pg_catalog.>) $2 ORDER BY e.version USING OPERATOR(pg_catalog.<) LIMIT $3",
    &[pg_sys::TEXTOID, pg_sys::INT8OID, pg_sys::INT8OID],
);

/// The call of a function that can be a reducer, and the type of its second argument.
static REDUCER: Statement = Statement::new(
    c"SELECT pg_catalog.format('SELECT %I.%I($1, $2)', n.nspname, p.proname), t.type::pg_catalog.oid \
        FROM pg_catalog.pg_proc AS p \
        JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace \
        CROSS JOIN (SELECT 'event_store.recorded_event'::pg_catalog.regtype) AS t(type) \
       WHERE p.oid OPERATOR(pg_catalog.=) $1 AND p.prokind OPERATOR(pg_catalog.=) 'f' AND NOT p.proretset \
         AND p.prorettype OPERATOR(pg_catalog.=) 'pg_catalog.jsonb'::pg_catalog.regtype \
         AND p.proargtypes::pg_catalog.text OPERATOR(pg_catalog.=) pg_catalog.concat( \
                 'pg_catalog.jsonb'::pg_catalog.regtype::pg_catalog.oid, ' ', t.type::pg_catalog.oid)",
    &[pg_sys::OIDOID],
);

fn aggregate(arguments: &Arguments) -> Result<Option<pg_sys::Datum>, Refusal> {
    let (Some(stream), Some(reducer)) = (arguments.text(0), arguments.oid(1)) else { refuse_null() };
    let Some(category) = name::category_of(stream) else { super::append::refuse_name(stream) };
    let owner = Owner::of(STREAM);
    categories::require(category, Privilege::Read, owner);
    let mut state = State::new();
    let version = spi::try_connected(|| {
        let reducer = look_up(reducer);
        let mut version = 0;
        state.set(arguments.datum(2));
        if let Some(reducer_version) = arguments.integer(3) {
            let rows = as_owner(owner, || {
                SNAPSHOT.execute(&[stream.into_datum(), reducer_version.into_datum()], Access::Write, 1)
            });
            if let Some(row) = rows.iter().next() {
                version = row.get(1).unwrap_or(0);
                state.set(row.datum(2));
            }
        }
        loop {
            let page = as_owner(owner, || read(stream, version));
            for row in page.iter() {
                let reduced = reducer.execute([state.value, row.datum(2)], Access::Write)?;
                state.set(reduced.iter().next().and_then(|row| row.datum(1)));
                reduced.free();
                version = row.get(1).unwrap_or(version);
            }
            let is_last = page.len() < PAGE;
            page.free();
            if is_last {
                return Ok(version);
            }
            pgrx::check_for_interrupts!();
        }
    })?;
    Ok(arguments.record([version.into_datum(), state.value]))
}

fn as_owner<R>(owner: Owner, work: impl FnOnce() -> R) -> R {
    let _owner = UserContext::switch_to(owner);
    let _plans = OrderedScans::only();
    work()
}

fn read(stream: &str, after: i64) -> Rows {
    let limit = i64::try_from(PAGE).unwrap_or(i64::MAX);
    EVENTS.execute(&[stream.into_datum(), after.into_datum(), limit.into_datum()], Access::Write, 0)
}

/// Prepares the call of the reducer, which the caller must have the right to call.
fn look_up(reducer: pg_sys::Oid) -> Prepared {
    let rows = REDUCER.execute(&[reducer.into_datum()], Access::Write, 1);
    let row = rows.iter().next();
    let found = row.and_then(|row| Some((row.get::<String>(1)?, row.get::<pg_sys::Oid>(2)?)));
    let Some((text, event)) = found else { refuse_reducer() };
    let Ok(text) = CString::new(text) else { refuse_reducer() };
    Prepared::new(&text, &[pg_sys::JSONBOID, event])
}

/// A state, in memory that outlives the call of the reducer that made it, and no longer than the next one.
struct State {
    value: Option<pg_sys::Datum>,
    memory: [pgrx::PgMemoryContexts; 2],
    place: usize,
}

impl State {
    fn new() -> Self {
        let memory = || pgrx::PgMemoryContexts::new("event store state");
        Self { value: None, memory: [memory(), memory()], place: 0 }
    }

    /// Copies a jsonb. The state of before is gone then.
    fn set(&mut self, value: Option<pg_sys::Datum>) {
        let next = 1 - self.place;
        // SAFETY: a jsonb, alive until the copy is made; what the other memory holds is no longer used.
        unsafe {
            self.memory[next].reset();
            self.value = self.memory[next].switch_to(|_| {
                value.map(|value| pg_sys::Datum::from(pg_sys::pg_detoast_datum_copy(value.cast_mut_ptr())))
            });
        }
        self.place = next;
    }
}

fn refuse_null() -> ! {
    UserError {
        code: PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
        message: "stream and reducer must not be null".into(),
        detail: "A reducer makes a state of the events of one stream.".into(),
        hint: HINT.into(),
    }
    .raise()
}

const HINT: &str = "Pass a function (state jsonb, event event_store.recorded_event) that returns jsonb.";

fn refuse_reducer() -> ! {
    UserError {
        code: PgSqlErrorCode::ERRCODE_INVALID_FUNCTION_DEFINITION,
        message: "this function cannot be a reducer".into(),
        detail: "A reducer takes a state and an event, and returns the next state.".into(),
        hint: HINT.into(),
    }
    .raise()
}
