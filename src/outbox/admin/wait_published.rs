//! Owns `outbox.wait_published()`, which waits until all events that were committed before the call are
//! published.
//!
//! Runs in: client backends.

use std::time::{Duration, Instant};

use pgrx::prelude::*;

use crate::outbox::published;
use crate::outbox::relay::registration;
use crate::pg::function::{Arguments, sql_function};
use crate::pg::snapshot::Snapshot;
use crate::pg::spi::{self, Access, Statement};

sql_function!(outbox_wait_published, pg_finfo_outbox_wait_published, wait_published);

/// The newest event that is visible now.
static NEWEST: Statement = Statement::new(c"SELECT pg_catalog.max(e.id) FROM outbox.events AS e", &[]);

/// The first remaining event of a range, and the transaction that wrote it. Without the LIMIT the planner
/// would sort a whole backlog.
static FIRST: Statement = Statement::new(
    c"SELECT e.id, e.xmin FROM outbox.events AS e \
       WHERE e.id OPERATOR(pg_catalog.>=) $1 AND e.id OPERATOR(pg_catalog.<=) $2 ORDER BY e.id LIMIT 1",
    &[pg_sys::INT8OID, pg_sys::INT8OID],
);

/// All remaining events of a range, for a transaction that must skip its own.
static ALL: Statement = Statement::new(
    c"SELECT e.id, e.xmin FROM outbox.events AS e \
       WHERE e.id OPERATOR(pg_catalog.>=) $1 AND e.id OPERATOR(pg_catalog.<=) $2 ORDER BY e.id",
    &[pg_sys::INT8OID, pg_sys::INT8OID],
);

/// The longest sleep between two checks: no relay announces events that somebody deletes by hand.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

fn wait_published(arguments: &Arguments) -> Option<pg_sys::Datum> {
    let timeout = arguments.interval(0)?;
    // A timeout longer than the clock can represent means no deadline.
    let micros = u64::try_from(timeout.as_micros().max(0)).unwrap_or(u64::MAX);
    let deadline = Instant::now().checked_add(Duration::from_micros(micros));
    let newest = with_latest_snapshot(|| {
        NEWEST.execute(&[], Access::Read, 1).iter().next().and_then(|row| row.get::<i64>(1))
    });
    let Some(newest) = newest else { return true.into_datum() };
    let wait = published::condition().wait(c"EventOutboxPublished");
    let mut oldest = 0;
    let published = loop {
        match oldest_from(oldest, newest) {
            Some(id) => oldest = id,
            None => break true,
        }
        let left =
            deadline.map_or(CHECK_INTERVAL, |deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_zero() {
            break false;
        }
        wait.sleep(left.min(CHECK_INTERVAL));
    };
    drop(wait);
    published.into_datum()
}

/// The first remaining event from `oldest` to `newest` that another transaction committed. Events of this
/// transaction are skipped, because they are published only after it. Lower ids that were clear at the last
/// check are not checked again: an event that appears there was committed after the call.
fn oldest_from(oldest: i64, newest: i64) -> Option<i64> {
    let remaining = if registration::has_emitted() { &ALL } else { &FIRST };
    with_latest_snapshot(|| {
        remaining
            .execute(&[oldest.into_datum(), newest.into_datum()], Access::Read, 0)
            .iter()
            .filter_map(|row| Some((row.get::<i64>(1)?, row.get::<pg_sys::TransactionId>(2)?)))
            // SAFETY: compares with the ids of this process's own transaction.
            .find(|(_, xmin)| !unsafe { pg_sys::TransactionIdIsCurrentTransactionId(*xmin) })
            .map(|(id, _)| id)
    })
}

/// Runs `work` with a new snapshot, whatever the isolation level of the transaction.
fn with_latest_snapshot<R>(work: impl FnOnce() -> R) -> R {
    let _snapshot = Snapshot::take_latest();
    spi::connected(work)
}
