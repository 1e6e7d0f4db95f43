//! Owns the moves of scheduled events that are due from `outbox.scheduled` to `outbox.events`.
//!
//! Runs in: the relay's main thread.

use event_outbox_policy::reading::schedule::Step;
use pgrx::prelude::*;

use super::statements::{as_owner_of, notify_of_dead};
use crate::pg::catalog;
use crate::pg::compat;
use crate::pg::snapshot::Snapshot;
use crate::pg::spi::{self, Access, Statement, text};

/// The rows that are due, first those that are due first. Rows that other sessions have locked are left for later: a session
/// that cancels an event may yet roll back.
macro_rules! due {
    () => {
        "WITH due AS ( \
             DELETE FROM outbox.scheduled AS s WHERE s.ctid OPERATOR(pg_catalog.=) ANY (ARRAY( \
                 SELECT d.ctid FROM outbox.scheduled AS d WHERE d.deliver_at OPERATOR(pg_catalog.>=) $1 \
                    AND d.deliver_at OPERATOR(pg_catalog.<=) $2 \
                  ORDER BY d.deliver_at, d.id LIMIT $3 FOR UPDATE SKIP LOCKED)) \
             RETURNING s.*) "
    };
}

/// The trigger `before_insert` assigns the transaction's id before the first event id. The new ids follow the order of the
/// rows.
static MOVE: Statement = Statement::new(
    text!(
        due!(),
        "INSERT INTO outbox.events \
             (event_id, emitted_at, topic, partition, key, payload, headers, event_type, content_type, expires_at) \
         SELECT d.event_id, d.deliver_at, d.topic, d.partition, d.key, d.payload, d.headers, d.event_type, d.content_type, \
                d.expires_at \
           FROM due AS d ORDER BY d.deliver_at, d.id"
    ),
    &[pg_sys::TIMESTAMPTZOID, pg_sys::TIMESTAMPTZOID, pg_sys::INT8OID],
);

static NEXT: Statement = Statement::new(
    c"SELECT s.deliver_at FROM outbox.scheduled AS s WHERE s.deliver_at OPERATOR(pg_catalog.>=) $1 \
       ORDER BY s.deliver_at, s.id LIMIT 1",
    &[pg_sys::TIMESTAMPTZOID],
);

static BURY: Statement = Statement::new(
    text!(
        due!(),
        "INSERT INTO outbox.dead_letters \
             (id, event_id, emitted_at, topic, partition, key, payload, headers, event_type, content_type, attempts, \
              error, error_class, first_refused_at, last_refused_at, expires_at) \
         SELECT d.id, d.event_id, d.emitted_at, d.topic, d.partition, d.key, d.payload, d.headers, d.event_type, \
                d.content_type, 0, $4, 'other', pg_catalog.clock_timestamp(), pg_catalog.clock_timestamp(), \
                d.expires_at \
           FROM due AS d RETURNING event_id"
    ),
    &[pg_sys::TIMESTAMPTZOID, pg_sys::TIMESTAMPTZOID, pg_sys::INT8OID, pg_sys::TEXTOID],
);

/// What a move did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// How many events were moved.
    pub count: usize,
    /// The earliest date that is left, in microseconds since 1970.
    pub next: Option<i64>,
}

/// Moves events that are due. If not `may_move`, only looks for the next date.
#[must_use]
pub fn release(step: Step, may_move: bool) -> Moved {
    let table = super::SCHEDULED.oid();
    // An extension that is not updated yet has no such table. Without a page it is empty.
    if table == pg_sys::InvalidOid || !catalog::has_pages(table) {
        return Moved { count: 0, next: None };
    }
    let [from, until, limit] = parameters(step);
    let _snapshot = Snapshot::take();
    as_owner_of(table, || {
        spi::connected(|| {
            let count =
                if may_move { MOVE.execute(&[from, until, limit], Access::Write, 0).len() } else { 0 };
            let rows = NEXT.execute(&[from], Access::Write, 1);
            let next = rows.iter().next().and_then(|row| row.get::<i64>(1));
            Moved { count, next: next.map(compat::unix_micros) }
        })
    })
}

/// Makes a dead letter of the first event that is due, which cannot be moved because of this error.
pub fn bury(step: Step, error: &str) {
    let table = super::SCHEDULED.oid();
    if table == pg_sys::InvalidOid {
        return;
    }
    let [from, until, limit] = parameters(step);
    let _snapshot = Snapshot::take();
    let dead: Vec<[u8; 16]> = as_owner_of(table, || {
        spi::connected(|| {
            let rows = BURY.execute(&[from, until, limit, error.into_datum()], Access::Write, 0);
            rows.iter().filter_map(|row| row.get::<pgrx::Uuid>(1)).map(|id| *id.as_bytes()).collect()
        })
    });
    notify_of_dead(&dead);
}

fn parameters(Step { from, until, limit }: Step) -> [Option<pg_sys::Datum>; 3] {
    let timestamp = |micros| pg_sys::Datum::from(compat::pg_timestamp(micros));
    // -infinity.
    let from = from.map_or_else(|| pg_sys::Datum::from(i64::MIN), timestamp);
    [Some(from), Some(timestamp(until)), i64::try_from(limit).unwrap_or(i64::MAX).into_datum()]
}
