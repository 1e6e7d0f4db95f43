//! Owns `outbox.schema_registry()`, and `outbox.wait_registered()`, which waits until the Schema Registry has schemas.
//!
//! Runs in: client backends; a relay signals the condition.

use std::time::{Duration, Instant};

use pgrx::prelude::*;
use pgrx::{AssertPGRXSharedMemory, PgAtomic, pg_shmem_init};

use super::as_owner;
use crate::pg::condition::Condition;
use crate::pg::function::{Arguments, sql_function};
use crate::pg::shmem::shareable;
use crate::pg::snapshot::Snapshot;
use crate::pg::spi::{Access, Statement};
use crate::pg::user_error::UserError;
use crate::settings::registry;

sql_function!(outbox_schema_registry, pg_finfo_outbox_schema_registry, schema_registry);
sql_function!(outbox_wait_registered, pg_finfo_outbox_wait_registered, wait_registered);

// SAFETY: the name is this extension's own; Postgres guards the inside with a spin lock of its own.
static ANSWERED: PgAtomic<AssertPGRXSharedMemory<Condition>> =
    unsafe { PgAtomic::new(c"event_outbox_registered") };

/// The longest sleep between two checks: somebody can also drop what is waited for.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How many versions a registry does not have, how many of them this transaction has written, and one that is refused.
static MISSING: Statement = Statement::new(
    c"SELECT pg_catalog.count(*), \
             pg_catalog.count(*) FILTER (WHERE v.xmin OPERATOR(pg_catalog.=) \
                 pg_catalog.pg_current_xact_id_if_assigned()::pg_catalog.xid), \
             pg_catalog.min(v.subject) FILTER (WHERE r.state OPERATOR(pg_catalog.=) 'refused'), \
             pg_catalog.min(r.error) FILTER (WHERE r.state OPERATOR(pg_catalog.=) 'refused') \
        FROM outbox.schema_version AS v \
        LEFT JOIN outbox.schema_registration AS r ON r.registry OPERATOR(pg_catalog.=) $1 \
              AND r.subject OPERATOR(pg_catalog.=) v.subject AND r.version OPERATOR(pg_catalog.=) v.version \
       WHERE r.id IS NULL AND v.subject OPERATOR(pg_catalog.=) COALESCE($2, v.subject)",
    &[pg_sys::TEXTOID, pg_sys::TEXTOID],
);

/// Requests the shared memory.
pub(super) fn init() {
    pg_shmem_init!(ANSWERED = shareable(Condition::default()));
}

/// The condition. Relays broadcast it when the registry has answered.
pub fn answered() -> &'static Condition {
    ANSWERED.get()
}

/// The registry's address, as ids are stored with it.
fn schema_registry(_arguments: &Arguments) -> Option<pg_sys::Datum> {
    registry::url()?.to_string().into_datum()
}

fn wait_registered(arguments: &Arguments) -> Option<pg_sys::Datum> {
    let registry = registry::url().map_or_else(|| no_registry().raise(), |url| url.to_string());
    let subject = arguments.text(0);
    let timeout = arguments.interval(1)?;
    // A timeout longer than the clock can represent means no deadline.
    let micros = u64::try_from(timeout.as_micros().max(0)).unwrap_or(u64::MAX);
    let deadline = Instant::now().checked_add(Duration::from_micros(micros));
    let wait = answered().wait(c"EventOutboxRegistered");
    let is_registered = loop {
        let Missing { count, own, refused } = missing(&registry, subject);
        if let Some((subject, error)) = refused {
            refused_error(&subject, &error).raise();
        }
        if own > 0 {
            own_error().raise();
        }
        if count == 0 {
            break true;
        }
        let left =
            deadline.map_or(CHECK_INTERVAL, |deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_zero() {
            break false;
        }
        wait.sleep(left.min(CHECK_INTERVAL));
    };
    drop(wait);
    is_registered.into_datum()
}

struct Missing {
    count: i64,
    own: i64,
    refused: Option<(String, String)>,
}

fn missing(registry: &str, subject: Option<&str>) -> Missing {
    let _snapshot = Snapshot::take_latest();
    as_owner(|| {
        let rows = MISSING.execute(&[registry.into_datum(), subject.into_datum()], Access::Read, 1);
        let row = rows.iter().next();
        let count = |column| row.as_ref().and_then(|row| row.get::<i64>(column)).unwrap_or(0);
        let refused = row.as_ref().and_then(|row| Some((row.get::<String>(3)?, row.get::<String>(4)?)));
        Missing { count: count(1), own: count(2), refused }
    })
}

fn no_registry() -> UserError {
    UserError {
        code: PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        message: "no Schema Registry is set".into(),
        detail: "event_outbox.schema_registry_url is empty.".into(),
        hint: "Schemas need no registry: this database numbers them itself.".into(),
    }
}

fn refused_error(subject: &str, error: &str) -> UserError {
    UserError {
        code: PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        message: format!("the Schema Registry refuses a version of subject \"{subject}\""),
        detail: format!("{error}."),
        hint: "Register a version that it accepts, or change the subject's compatibility there; outbox.retry_registration() \
               asks it again."
            .into(),
    }
}

fn own_error() -> UserError {
    UserError {
        code: PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        message: "the schema was registered by the same transaction".into(),
        detail: "The relay registers what is committed.".into(),
        hint: "Commit, and call outbox.wait_registered() then.".into(),
    }
}
