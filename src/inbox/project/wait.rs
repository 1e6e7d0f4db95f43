//! `inbox.wait_projected()`: waits until records are applied to the table of a projection.
//!
//! Runs in: client backends wait, the processes of projections signal.

use std::time::{Duration, Instant};

use pgrx::prelude::*;
use pgrx::{AssertPGRXSharedMemory, PgAtomic, pg_shmem_init};

use crate::inbox::table::SUBSCRIPTION;
use crate::pg::backend;
use crate::pg::condition::Condition;
use crate::pg::function::{Arguments, sql_function};
use crate::pg::shmem::shareable;
use crate::pg::snapshot::Snapshot;
use crate::pg::spi::{self, Access, Statement};
use crate::pg::user_context::{Owner, UserContext};
use crate::pg::user_error::UserError;

sql_function!(inbox_wait_projected, pg_finfo_inbox_wait_projected, wait_projected);

// SAFETY: the name is this extension's own; Postgres guards the inside with a spin lock of its own.
static PROJECTED: PgAtomic<AssertPGRXSharedMemory<Condition>> =
    unsafe { PgAtomic::new(c"event_outbox_inbox_projected") };

static PROJECTION: Statement = Statement::new(
    c"SELECT inbox.projection_to_wait_for($1, $2, $3, $4)",
    &[pg_sys::OIDOID, pg_sys::TEXTOID, pg_sys::INT8OID, pg_sys::INT4OID],
);

static ENDS: Statement = Statement::new(
    c"SELECT inbox.ends_to_wait_for($1, $2, $3, $4)",
    &[pg_sys::INT4OID, pg_sys::INT8OID, pg_sys::INT4OID, pg_sys::INTERVALOID],
);

static HAS_REACHED: Statement =
    Statement::new(c"SELECT inbox.has_reached($1, $2)", &[pg_sys::INT4OID, pg_sys::INT8ARRAYOID]);

/// Longest sleep between two looks: a rebuild may take the place of the projection.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Requests the shared memory.
pub fn init() {
    pg_shmem_init!(PROJECTED = shareable(Condition::default()));
}

/// Something was applied, or looked for.
pub fn projected() {
    PROJECTED.get().broadcast();
}

fn wait_projected(arguments: &Arguments) -> Option<pg_sys::Datum> {
    // SAFETY: a plain global of this process.
    if unsafe { pg_sys::XactIsoLevel } >= pg_sys::XACT_REPEATABLE_READ as i32 {
        keeps_to_a_snapshot().raise();
    }
    let timeout = arguments.interval(3);
    let micros = timeout.map(|timeout| u64::try_from(timeout.as_micros().max(0)).unwrap_or(u64::MAX));
    // Longer than any server lives is no deadline at all.
    let deadline = micros.and_then(|micros| Instant::now().checked_add(Duration::from_micros(micros)));
    let caller = backend::user();
    let mut ends: Option<Vec<Option<i64>>> = None;
    let waiting = PROJECTED.get().wait(c"EventOutboxProjected");
    let is_projected = loop {
        let look = || {
            let _snapshot = Snapshot::take_latest();
            let projection =
                [caller.into_datum(), arguments.datum(0), arguments.datum(1), arguments.datum(2)];
            let projection: Option<i32> = one(&PROJECTION, &projection);
            if ends.is_none() {
                let place =
                    [projection.into_datum(), arguments.datum(1), arguments.datum(2), arguments.datum(3)];
                ends = one(&ENDS, &place);
            }
            // The ends may not be known yet.
            ends.is_some()
                && one(&HAS_REACHED, &[projection.into_datum(), ends.clone().into_datum()]) == Some(true)
        };
        let is_projected = as_tables_owner(look);
        let left = deadline.map_or(LOOK_AGAIN, |deadline| deadline.saturating_duration_since(Instant::now()));
        if is_projected || left.is_zero() {
            break is_projected;
        }
        waiting.sleep(left.min(LOOK_AGAIN));
    };
    drop(waiting);
    is_projected.into_datum()
}

fn as_tables_owner<R>(work: impl FnOnce() -> R) -> R {
    let _owner = UserContext::switch_to(Owner::of(SUBSCRIPTION));
    spi::connected(work)
}

fn one<T: FromDatum>(statement: &Statement, arguments: &[Option<pg_sys::Datum>]) -> Option<T> {
    statement.execute(arguments, Access::Read, 1).iter().next().and_then(|row| row.get(1))
}

fn keeps_to_a_snapshot() -> UserError {
    UserError {
        code: PgSqlErrorCode::ERRCODE_INVALID_TRANSACTION_STATE,
        message: "inbox.wait_projected() cannot run in a transaction that keeps to one snapshot".into(),
        detail: "What is applied meanwhile would not be seen in it.".into(),
        hint: "Call it in a READ COMMITTED transaction, or before one that is not.".into(),
    }
}
