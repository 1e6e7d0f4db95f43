//! Records the failures that sessions have noted: a batch is narrowed, an event alone is charged.
//!
//! Runs in: an ingest worker, main thread.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use event_outbox_policy::inbox::charge::{self, Fate};
use event_outbox_policy::inbox::lane::{Consequence, Failed};
use pgrx::prelude::*;

use super::Ingest;
use super::metrics;
use super::registration::FAILURES;
use crate::inbox::arrivals;
use crate::inbox::receive::failures::{self, Failure, Received};
use crate::inbox::table::lanes::{self, Lane};
use crate::inbox::table::{as_owner, lane_lock};
use crate::pg::spi::{Access, Statement};
use crate::pg::{backend, compat, function};
use crate::settings::events;
use crate::worker::{process, transaction};

/// When to try again if another session holds the lock of a lane.
const LOCKED_PAUSE: Duration = Duration::from_millis(50);

/// The text for an event whose error is not known.
const UNKNOWN: &str = "the transaction that had received the event was rolled back";

static ATTEMPTS: Statement = Statement::new(
    c"SELECT s.max_attempts, coalesce((SELECT r.attempts FROM inbox.retry AS r \
                                        WHERE r.subscription_id OPERATOR(pg_catalog.=) s.id \
                                          AND r.position OPERATOR(pg_catalog.=) $2), 0) \
        FROM inbox.subscription AS s WHERE s.id OPERATOR(pg_catalog.=) $1",
    &[pg_sys::INT4OID, pg_sys::INT8OID],
);

/// Copies a new event from the log, unless a seek has discarded it meanwhile.
static PUT_ASIDE: Statement = Statement::new(
    c"INSERT INTO inbox.retry (subscription_id, position, lane, topic, partition, \"offset\", produced_at, key, value, \
                               headers, order_key) \
      SELECT s.id, e.position, e.lane, p.topic, p.partition, e.\"offset\", e.produced_at, e.key, e.value, e.headers, \
             inbox.order_key(s.ordering, p.topic, p.partition, e.key) \
        FROM inbox.subscription AS s JOIN inbox.log AS e ON e.source_id OPERATOR(pg_catalog.=) s.source_id \
             JOIN inbox.partition AS p ON p.source_id OPERATOR(pg_catalog.=) e.source_id \
                                      AND p.number OPERATOR(pg_catalog.=) e.partition \
       WHERE s.id OPERATOR(pg_catalog.=) $1 AND e.lane OPERATOR(pg_catalog.=) $2 \
         AND e.position OPERATOR(pg_catalog.=) $3 \
         AND (e.position OPERATOR(pg_catalog.>) p.first_position OR s.source_id OPERATOR(pg_catalog.<>) s.id)",
    &[pg_sys::INT4OID, pg_sys::INT2OID, pg_sys::INT8OID],
);

static CHARGE: Statement = Statement::new(
    c"UPDATE inbox.retry SET attempts = $3, next_attempt_at = $4, last_error = $5, failed_at = pg_catalog.now() \
       WHERE subscription_id OPERATOR(pg_catalog.=) $1 AND position OPERATOR(pg_catalog.=) $2",
    &[pg_sys::INT4OID, pg_sys::INT8OID, pg_sys::INT4OID, pg_sys::TIMESTAMPTZOID, pg_sys::TEXTOID],
);

static BURY: Statement = Statement::new(
    c"WITH dead AS ( \
          DELETE FROM inbox.retry WHERE subscription_id OPERATOR(pg_catalog.=) $1 AND position OPERATOR(pg_catalog.=) $2 \
          RETURNING *) \
      INSERT INTO inbox.dead_letters (subscription_id, position, lane, topic, partition, \"offset\", produced_at, key, \
                                      value, headers, order_key, attempts, last_error) \
      SELECT d.subscription_id, d.position, d.lane, d.topic, d.partition, d.\"offset\", d.produced_at, d.key, d.value, \
             d.headers, d.order_key, $3, $4 \
        FROM dead AS d \
      RETURNING pg_catalog.pg_notify('inbox_dead_letter', pg_catalog.json_build_object( \
          'dead_letter_id', dead_letter_id, 'subscription_id', subscription_id, 'topic', topic, \
          'error', pg_catalog.left(last_error, 1000))::text)",
    &[pg_sys::INT4OID, pg_sys::INT8OID, pg_sys::INT4OID, pg_sys::TEXTOID],
);

/// How often an error may keep a failure from being recorded before it is given up. The events are received again then, and
/// the attempt is not counted.
const TRIES: u32 = 10;

/// When to try again after an error.
const ERROR_PAUSE: Duration = Duration::from_secs(1);

/// Failures that could not be recorded yet, because another session held the lock of their lane, or because of an error.
#[derive(Default)]
pub struct Failures {
    /// Each with the number of errors.
    waiting: Vec<(Failure, u32)>,
    next: Option<Instant>,
}

impl Failures {
    fn put_off(&mut self, failure: Failure, errors: u32, pause: Duration) {
        self.waiting.push((failure, errors));
        let next = Instant::now() + pause;
        self.next = Some(self.next.map_or(next, |date| date.min(next)));
    }
}

impl Ingest {
    /// Whether failures can be recorded now.
    pub(super) fn has_failures(&self) -> bool {
        failures::any(backend::database()) || self.failures.next.is_some_and(|next| next <= Instant::now())
    }

    /// When failures that were put off are tried again.
    pub(super) fn next_failures(&self) -> Option<Instant> {
        self.failures.next
    }

    /// Records the failures that were noted. An error of one concerns no other, so it does not count as one of the worker.
    pub(super) fn record_failures(&mut self) {
        self.slot.take_notice(FAILURES);
        if !self.has_failures() {
            return;
        }
        let mut noted = std::mem::take(&mut self.failures.waiting);
        noted.extend(failures::take(backend::database()).into_iter().map(|failure| (failure, 0)));
        self.failures.next = None;
        for (failure, errors) in noted {
            match transaction::run(c"event_outbox: recording a failure", || record(&failure)) {
                Ok(true) => {
                    metrics::of(self.slot).failures.fetch_add(1, Ordering::Relaxed);
                    arrivals::condition().broadcast();
                }
                Ok(false) => self.failures.put_off(failure, errors, LOCKED_PAUSE),
                Err(_) if process::stop_requested() => {}
                Err(error) => {
                    if errors == 0 {
                        tracing::warn!("could not record that an event failed: {error}");
                        self.slot.show_error(&error.message);
                    }
                    if errors < TRIES {
                        self.failures.put_off(failure, errors + 1, ERROR_PAUSE);
                    }
                }
            }
        }
    }
}

/// Records a failure. Returns `false` if another session holds the lock of the lane.
fn record(failure: &Failure) -> bool {
    let received = &failure.received;
    if !lane_lock::try_acquire(received.subscription, received.lane) {
        return false;
    }
    as_owner(|| {
        // A subscription that was dropped has no lanes.
        let Some(lane) = Lane::read(received.subscription, received.lane) else { return };
        let Received { based_on, upto, count, waited, .. } = *received;
        // The lane does not pass events that waited: it has passed them already.
        let failed = Failed { based_on, upto: if waited { lane.state.upto } else { upto }, count };
        match lane.state.failed(failed) {
            Consequence::Stale => {}
            Consequence::Narrow(next) => lanes::insert(received.subscription, received.lane, &next),
            Consequence::Charge(next) => {
                lanes::insert(received.subscription, received.lane, &next);
                charge(received, failure.error.as_deref().unwrap_or(UNKNOWN));
            }
        }
    });
    true
}

/// Charges the event that was received alone.
fn charge(received: &Received, error: &str) {
    let (subscription, position) = (received.subscription.into_datum(), received.upto.into_datum());
    let rows = ATTEMPTS.execute(&[subscription, position], Access::Write, 1);
    let Some(row) = rows.iter().next() else { return };
    let (max_attempts, before) = (row.get::<i32>(1).unwrap_or(1), row.get::<i32>(2).unwrap_or(0));
    if !received.waited {
        let lane = (received.lane as i16).into_datum();
        if PUT_ASIDE.execute(&[subscription, lane, position], Access::Write, 0).is_empty() {
            // The lane must not pass an event that is nowhere.
            error!("the event at position {} is not in the log", received.upto);
        }
    }
    let attempts = before.saturating_add(1);
    let fate = charge::fate(
        attempts.unsigned_abs(),
        max_attempts.unsigned_abs(),
        events::retry_backoff(),
        crate::pg::now(),
        function::random(),
    );
    match fate {
        Fate::RetryAt(at) => {
            let at = Some(pg_sys::Datum::from(compat::pg_timestamp(at)));
            CHARGE.execute(
                &[subscription, position, attempts.into_datum(), at, error.into_datum()],
                Access::Write,
                0,
            );
        }
        Fate::Dead => {
            BURY.execute(
                &[subscription, position, attempts.into_datum(), error.into_datum()],
                Access::Write,
                0,
            );
        }
    }
}
