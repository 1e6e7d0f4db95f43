//! Owns how often the server has crashed while a rebuild gave its rows to the table of its projection.
//!
//! Runs in: the process of a rebuild, and the ingest worker, in a transaction, as the owner of the tables.

use event_outbox_policy::inbox::lanes::LANES;
use pgrx::prelude::*;

use crate::pg::spi::{Access, Statement};

/// Stands for that work, in what is written down for a crash, where the lane of events is.
pub const COPY: u16 = LANES;

static CRASHED: Statement = Statement::new(
    c"UPDATE inbox.projection AS p SET copy_crashes = p.copy_crashes OPERATOR(pg_catalog.+) 1 \
       WHERE p.subscription_id OPERATOR(pg_catalog.=) $1 AND p.rebuild_of IS NOT NULL",
    &[pg_sys::INT4OID],
);

static CRASHES: Statement = Statement::new(
    c"SELECT p.copy_crashes FROM inbox.projection AS p WHERE p.subscription_id OPERATOR(pg_catalog.=) $1",
    &[pg_sys::INT4OID],
);

/// Counts a crash.
pub fn note_crash(subscription: i32) {
    CRASHED.execute(&[subscription.into_datum()], Access::Write, 0);
}

/// The number of crashes.
#[must_use]
pub fn crashes(subscription: i32) -> i32 {
    let rows = CRASHES.execute(&[subscription.into_datum()], Access::Write, 1);
    rows.iter().next().and_then(|row| row.get(1)).unwrap_or(0)
}
