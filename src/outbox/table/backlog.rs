//! Owns the count of the rows of `outbox.events`.
//!
//! Runs in: the relay's main thread.

use pgrx::prelude::*;

use super::outbox::Outbox;
use super::statements::as_owner_of;
use crate::pg::snapshot::Snapshot;
use crate::pg::spi::{self, Access, Statement};

static COUNT: Statement = Statement::new(
    c"SELECT pg_catalog.count(*), pg_catalog.pg_stat_get_live_tuples($1) \
        FROM (SELECT FROM outbox.events LIMIT $2) AS e",
    &[pg_sys::OIDOID, pg_sys::INT8OID],
);

/// The number of rows, of which at most so many are counted, and the server's own estimate.
#[must_use]
pub fn count(outbox: Outbox, most: i64) -> (i64, i64) {
    let _snapshot = Snapshot::take();
    as_owner_of(outbox.events, || {
        spi::connected(|| {
            let rows = COUNT.execute(&[outbox.events.into_datum(), most.into_datum()], Access::Read, 1);
            let row = rows.row(0);
            (row.get(1).unwrap_or(0), row.get(2).unwrap_or(0))
        })
    })
}
