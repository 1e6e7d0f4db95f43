//! Events as they are stored: in the log, among those that wait, among the dead letters.

use pgrx::prelude::*;

use super::subscription::Subscription;
use crate::pg::spi::{Access, Row, Statement};

/// Events that wait.
static WAITED: Statement = Statement::new(
    c"SELECT r.position, r.topic, r.partition, r.\"offset\", r.produced_at, r.key, r.value, r.headers, r.attempts, r.order_key, r.is_suspect, r.skip_after \
        FROM inbox.retry AS r \
       WHERE r.subscription_id OPERATOR(pg_catalog.=) $1 AND r.position OPERATOR(pg_catalog.=) ANY ($2)",
    &[pg_sys::INT4OID, pg_sys::INT8ARRAYOID],
);

/// Takes them away.
static TAKE_WAITED: Statement = Statement::new(
    c"DELETE FROM inbox.retry AS r \
       WHERE r.subscription_id OPERATOR(pg_catalog.=) $1 AND r.position OPERATOR(pg_catalog.=) ANY ($2) \
      RETURNING r.position, r.topic, r.partition, r.\"offset\", r.produced_at, r.key, r.value, r.headers, r.attempts, r.order_key, r.is_suspect, r.skip_after",
    &[pg_sys::INT4OID, pg_sys::INT8ARRAYOID],
);

/// Nothing, if it waits already.
static WAIT: Statement = Statement::new(
    c"INSERT INTO inbox.retry (subscription_id, lane, position, topic, partition, \"offset\", produced_at, key, value, headers, \
                               order_key, attempts, next_attempt_at, last_error, is_suspect, skip_after, failed_at) \
      VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, \
              CASE WHEN $14 IS NOT NULL THEN pg_catalog.clock_timestamp() END) \
      ON CONFLICT DO NOTHING",
    &[
        pg_sys::INT4OID,
        pg_sys::INT2OID,
        pg_sys::INT8OID,
        pg_sys::TEXTOID,
        pg_sys::INT4OID,
        pg_sys::INT8OID,
        pg_sys::TIMESTAMPTZOID,
        pg_sys::BYTEAOID,
        pg_sys::BYTEAOID,
        pg_sys::BYTEAOID,
        pg_sys::BYTEAOID,
        pg_sys::INT4OID,
        pg_sys::TIMESTAMPTZOID,
        pg_sys::TEXTOID,
        pg_sys::BOOLOID,
        pg_sys::INT8OID,
    ],
);

/// What waits in a lane was being received when the server crashed, or may have been.
static SUSPECT: Statement = Statement::new(
    c"UPDATE inbox.retry AS r SET is_suspect = true \
       WHERE r.subscription_id OPERATOR(pg_catalog.=) $1 AND r.lane OPERATOR(pg_catalog.=) $2",
    &[pg_sys::INT4OID, pg_sys::INT2OID],
);

static DIE: Statement = Statement::new(
    c"INSERT INTO inbox.dead_letters (subscription_id, lane, position, topic, partition, \"offset\", produced_at, key, value, \
                                      headers, order_key, attempts, last_error, died_at) \
      VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, pg_catalog.clock_timestamp()) \
      RETURNING pg_catalog.pg_notify('inbox_dead_letter', pg_catalog.json_build_object( \
          'dead_letter_id', dead_letter_id, 'subscription_id', subscription_id, 'topic', topic, \
          'error', pg_catalog.left(last_error, 1000))::pg_catalog.text)",
    &[
        pg_sys::INT4OID,
        pg_sys::INT2OID,
        pg_sys::INT8OID,
        pg_sys::TEXTOID,
        pg_sys::INT4OID,
        pg_sys::INT8OID,
        pg_sys::TIMESTAMPTZOID,
        pg_sys::BYTEAOID,
        pg_sys::BYTEAOID,
        pg_sys::BYTEAOID,
        pg_sys::BYTEAOID,
        pg_sys::INT4OID,
        pg_sys::TEXTOID,
    ],
);

/// A stored event: a row of one of the statements above.
#[derive(Clone, Copy)]
pub struct Stored {
    /// The row.
    pub row: Row,
    is_waiting: bool,
}

/// The columns that all have.
const TOPIC: i32 = 2;
const PARTITION: i32 = 3;
/// The record's key.
pub const KEY: i32 = 6;
/// The record's value.
pub const VALUE: i32 = 7;
/// The record's headers, packed.
pub const HEADERS: i32 = 8;
/// The columns before the order key.
const COPIED: std::ops::RangeInclusive<i32> = 1..=8;

impl Stored {
    /// A row of an event that waits.
    #[must_use]
    pub fn waited(row: Row) -> Self {
        Self { row, is_waiting: true }
    }

    /// Its position.
    #[must_use]
    pub fn position(&self) -> i64 {
        self.row.get(1).unwrap_or(0)
    }

    /// Whether a seek has skipped it.
    #[must_use]
    pub fn is_skipped(&self) -> bool {
        !self.is_waiting && self.row.get(9) == Some(false)
    }

    /// How often it has failed.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        let attempts = if self.is_waiting { self.row.get::<i32>(9) } else { None };
        attempts.and_then(|attempts| u32::try_from(attempts).ok()).unwrap_or(0)
    }

    /// Whether it may have crashed the server.
    #[must_use]
    pub fn is_suspect(&self) -> bool {
        self.is_waiting && self.row.get(11) == Some(true)
    }

    /// A seek has skipped it if its partition begins after a greater position than this: a redriven one is left by the seeks
    /// before.
    fn skip_after(&self) -> i64 {
        let kept = if self.is_waiting { self.row.get(12) } else { None };
        kept.unwrap_or(self.position() - 1)
    }

    /// What it has in common with the events that keep their order with it.
    #[must_use]
    pub fn order_key(&self, subscription: &Subscription) -> Option<Vec<u8>> {
        if self.is_waiting {
            return self.row.get(10);
        }
        let topic = self.row.get::<&str>(TOPIC).unwrap_or_default();
        let partition = self.row.get(PARTITION).unwrap_or(0);
        subscription.ordering.order_key(self.row.get::<&[u8]>(KEY), topic, partition)
    }

    /// The first arguments of the statements that copy it.
    fn copied(&self, subscription: &Subscription, lane: u16) -> Vec<Option<pg_sys::Datum>> {
        let mut arguments = vec![subscription.id.into_datum(), lane_number(lane).into_datum()];
        arguments.extend(COPIED.map(|column| self.row.datum(column)));
        arguments.push(self.order_key(subscription).into_datum());
        arguments
    }

    /// Has it wait behind an event with the same order key.
    pub fn park(&self, subscription: &Subscription, lane: u16) {
        let mut arguments = self.copied(subscription, lane);
        arguments.extend([self.attempts().cast_signed().into_datum(), None, None]);
        arguments.extend([false.into_datum(), self.skip_after().into_datum()]);
        WAIT.execute(&arguments, Access::Write, 0);
    }

    /// Has it wait for another attempt, after this many. `is_suspect`: the last one crashed the server.
    pub fn retry(
        &self,
        subscription: &Subscription,
        lane: u16,
        attempts: u32,
        at: pg_sys::TimestampTz,
        error: &str,
        is_suspect: bool,
    ) {
        let mut arguments = self.copied(subscription, lane);
        arguments.extend([
            attempts.cast_signed().into_datum(),
            Some(pg_sys::Datum::from(at)),
            error.into_datum(),
            is_suspect.into_datum(),
            self.skip_after().into_datum(),
        ]);
        WAIT.execute(&arguments, Access::Write, 0);
    }

    /// Makes it a dead letter, after this many attempts.
    pub fn die(&self, subscription: &Subscription, lane: u16, attempts: u32, error: &str) {
        let mut arguments = self.copied(subscription, lane);
        arguments.extend([attempts.cast_signed().into_datum(), error.into_datum()]);
        DIE.execute(&arguments, Access::Write, 0);
    }
}

/// A lane as SQL has it.
#[must_use]
pub fn lane_number(lane: u16) -> i16 {
    i16::try_from(lane).unwrap_or(0)
}

/// Up to `limit` events of a lane after `after`, in their order.
#[must_use]
pub fn new_events(subscription: &Subscription, lane: u16, after: i64, limit: usize) -> Vec<Stored> {
    let rows = subscription.log.events(lane_number(lane), after, limit);
    rows.into_iter().map(|row| Stored { row, is_waiting: false }).collect()
}

/// The event at this position in the log, if it is there.
#[must_use]
pub fn new_event(subscription: &Subscription, lane: u16, position: i64) -> Option<Stored> {
    let found = new_events(subscription, lane, position - 1, 1);
    found.into_iter().find(|event| event.position() == position)
}

/// Events that wait, in their order.
#[must_use]
pub fn waited(subscription: &Subscription, positions: &[i64]) -> Vec<Stored> {
    sorted(&WAITED, Access::Read, subscription, positions)
}

/// All that waits in a lane is received alone from now on, as it may have crashed the server.
pub fn suspect_waiting(subscription: &Subscription, lane: u16) {
    SUSPECT.execute(&[subscription.id.into_datum(), lane_number(lane).into_datum()], Access::Write, 0);
}

/// Takes events that wait away, and returns those that were there, in their order.
#[must_use]
pub fn take_waited(subscription: &Subscription, positions: &[i64]) -> Vec<Stored> {
    sorted(&TAKE_WAITED, Access::Write, subscription, positions)
}

fn sorted(
    statement: &Statement,
    access: Access,
    subscription: &Subscription,
    positions: &[i64],
) -> Vec<Stored> {
    let arguments = [subscription.id.into_datum(), positions.to_vec().into_datum()];
    let mut events: Vec<Stored> =
        statement.execute(&arguments, access, 0).iter().map(Stored::waited).collect();
    events.sort_by_key(Stored::position);
    events
}
