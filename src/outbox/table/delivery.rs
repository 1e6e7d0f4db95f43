//! Owns the relay's access to the tables of delivery: which topics differ from the database, and how many events were
//! deleted before they were published and are not confirmed yet.
//!
//! Runs in: the relay's main thread.

use pgrx::prelude::*;

use super::{UNCONFIRMED, member};
use crate::pg::catalog::{self, Member};
use crate::pg::spi::{self, Access, Statement};
use crate::pg::user_context::{Owner, UserContext};

static ADD: Statement = Statement::new(
    c"INSERT INTO outbox.unconfirmed (claim, events) VALUES ($1, $2)",
    &[pg_sys::INT8OID, pg_sys::INT8OID],
);

static CONFIRM: Statement = Statement::new(
    c"DELETE FROM outbox.unconfirmed AS u WHERE u.claim OPERATOR(pg_catalog.<=) $1",
    &[pg_sys::INT8OID],
);

static TAKE: Statement = Statement::new(
    c"WITH gone AS (DELETE FROM outbox.unconfirmed AS u RETURNING u.events) \
      SELECT coalesce(pg_catalog.sum(g.events), 0)::pg_catalog.int8 FROM gone AS g",
    &[],
);

static DELIVERIES: Statement =
    Statement::new(c"SELECT t.pattern, t.delivery FROM outbox.topic_delivery AS t", &[]);

/// The topics whose events are delivered in another way than the database's.
const TOPIC_DELIVERY: Member = member(c"topic_delivery");

/// Records a deletion. Within its transaction.
pub fn add(claim: i64, events: usize) {
    // Objects of an earlier version have no such table.
    if UNCONFIRMED.oid() == pg_sys::InvalidOid {
        return;
    }
    let _owner = UserContext::confined_to(Owner::of(UNCONFIRMED));
    let events = i64::try_from(events).unwrap_or(i64::MAX);
    spi::connected(|| {
        ADD.execute(&[claim.into_datum(), events.into_datum()], Access::Write, 0);
    });
}

/// Records that all deletions up to this one are confirmed.
pub fn confirm(upto: i64) {
    if UNCONFIRMED.oid() == pg_sys::InvalidOid {
        return;
    }
    let _owner = UserContext::confined_to(Owner::of(UNCONFIRMED));
    spi::connected(|| {
        CONFIRM.execute(&[upto.into_datum()], Access::Write, 0);
    });
}

/// Empties the table, and returns how many events it counted.
#[must_use]
pub fn take() -> i64 {
    let table = UNCONFIRMED.oid();
    // Objects of an earlier version have no such table.
    if table == pg_sys::InvalidOid || !catalog::has_pages(table) {
        return 0;
    }
    let _owner = UserContext::confined_to(Owner::of(UNCONFIRMED));
    spi::connected(|| {
        TAKE.execute(&[], Access::Write, 0).iter().next().and_then(|row| row.get(1)).unwrap_or(0)
    })
}

/// The topics that have a mode of their own, with its name.
#[must_use]
pub fn topics() -> Vec<(String, String)> {
    let table = TOPIC_DELIVERY.oid();
    if table == pg_sys::InvalidOid || !catalog::has_pages(table) {
        return Vec::new();
    }
    let _owner = UserContext::confined_to(Owner::of(TOPIC_DELIVERY));
    spi::connected(|| {
        let rows = DELIVERIES.execute(&[], Access::Read, 0);
        rows.iter().filter_map(|row| Some((row.get(1)?, row.get(2)?))).collect()
    })
}
