//! Events as they are stored: in the log, among those that wait, among the dead letters.

use pgrx::prelude::*;

use super::subscription::Subscription;
use crate::pg::spi::{Access, Row, Statement};
use crate::pg::varlena;

/// Events that wait.
static WAITED: Statement = Statement::ordered(
    c"SELECT r.position, r.topic, r.partition, r.\"offset\", r.produced_at, r.key, r.value, r.headers, r.attempts, r.order_key, r.is_suspect, r.skip_after \
        FROM inbox.retry AS r \
       WHERE r.subscription_id OPERATOR(pg_catalog.=) $1 AND r.position OPERATOR(pg_catalog.=) ANY ($2)",
    &[pg_sys::INT4OID, pg_sys::INT8ARRAYOID],
);

/// Takes them away.
static TAKE_WAITED: Statement = Statement::ordered(
    c"DELETE FROM inbox.retry AS r \
       WHERE r.subscription_id OPERATOR(pg_catalog.=) $1 AND r.position OPERATOR(pg_catalog.=) ANY ($2) \
      RETURNING r.position, r.topic, r.partition, r.\"offset\", r.produced_at, r.key, r.value, r.headers, r.attempts, r.order_key, r.is_suspect, r.skip_after",
    &[pg_sys::INT4OID, pg_sys::INT8ARRAYOID],
);

/// Nothing, if it waits already.
static WAIT: Statement = Statement::ordered(
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
static SUSPECT: Statement = Statement::ordered(
    c"UPDATE inbox.retry AS r SET is_suspect = true \
       WHERE r.subscription_id OPERATOR(pg_catalog.=) $1 AND r.lane OPERATOR(pg_catalog.=) $2",
    &[pg_sys::INT4OID, pg_sys::INT2OID],
);

static DIE: Statement = Statement::ordered(
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

/// A stored event, whose values live as long as the row or the scan that they were read from.
#[derive(Clone, Copy)]
pub struct Stored {
    /// Position, topic, partition, offset, time, key, value and headers.
    columns: [Option<pg_sys::Datum>; COLUMNS],
    place: Place,
}

/// Where an event was found.
#[derive(Clone, Copy)]
enum Place {
    /// In the log.
    Log { is_skipped: bool },
    /// Among those that wait: a row of a statement above.
    Waiting(Row),
}

/// The number of columns that all have.
const COLUMNS: usize = 8;

/// The columns, counted from 1.
const POSITION: usize = 1;
const TOPIC: usize = 2;
const PARTITION: usize = 3;
/// The record's key.
pub const KEY: usize = 6;
/// The record's value.
pub const VALUE: usize = 7;
/// The record's headers, packed.
pub const HEADERS: usize = 8;

/// How many columns a table of the log has.
const OF_LOG: usize = 9;

impl Stored {
    /// An event of the log, from a row of its table. `None` if its partition is unknown.
    #[must_use]
    pub fn new(subscription: &Subscription, row: &[Option<pg_sys::Datum>; OF_LOG]) -> Option<Self> {
        let [_, _, position, number, offset, produced_at, key, value, headers] = *row;
        let partition = subscription.partition(number?.value() as i32)?;
        let topic = Some(partition.topic.datum());
        let columns =
            [position, topic, partition.partition.into_datum(), offset, produced_at, key, value, headers];
        let is_skipped = position?.value() as i64 <= partition.first_position;
        Some(Self { columns, place: Place::Log { is_skipped } })
    }

    /// An event of the log, from a row that was read in SQL.
    #[must_use]
    pub fn read(row: &Row) -> Self {
        Self { columns: columns(row), place: Place::Log { is_skipped: row.get(9) == Some(false) } }
    }

    /// A row of an event that waits.
    #[must_use]
    pub fn waited(row: Row) -> Self {
        Self { columns: columns(&row), place: Place::Waiting(row) }
    }

    /// Its row, if it waits.
    #[must_use]
    pub fn waiting_row(&self) -> Option<Row> {
        match self.place {
            Place::Waiting(row) => Some(row),
            Place::Log { .. } => None,
        }
    }

    /// The value of a column; `None` for NULL.
    #[must_use]
    pub fn datum(&self, column: usize) -> Option<pg_sys::Datum> {
        self.columns[column - 1]
    }

    /// The value of a column as a Rust value.
    #[must_use]
    pub fn get<T: FromDatum>(&self, column: usize) -> Option<T> {
        // SAFETY: the caller names the column's own type.
        self.datum(column).and_then(|datum| unsafe { T::from_datum(datum, false) })
    }

    /// The bytes of a column of type bytea or text, detoasted if necessary; `None` for NULL.
    #[must_use]
    pub fn bytes(&self, column: usize) -> Option<&[u8]> {
        // SAFETY: the caller names a column of such a type, whose value is alive.
        self.datum(column).map(|value| unsafe { varlena::bytes(value) })
    }

    /// Its topic.
    #[must_use]
    pub fn topic(&self) -> &str {
        self.bytes(TOPIC).and_then(|topic| std::str::from_utf8(topic).ok()).unwrap_or_default()
    }

    /// Its position.
    #[must_use]
    pub fn position(&self) -> i64 {
        self.get(POSITION).unwrap_or(0)
    }

    /// Whether a seek has skipped it.
    #[must_use]
    pub fn is_skipped(&self) -> bool {
        matches!(self.place, Place::Log { is_skipped: true })
    }

    /// How often it has failed.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        let attempts = self.waiting_row().and_then(|row| row.get::<i32>(9));
        attempts.and_then(|attempts| u32::try_from(attempts).ok()).unwrap_or(0)
    }

    /// Whether it may have crashed the server.
    #[must_use]
    pub fn is_suspect(&self) -> bool {
        self.waiting_row().and_then(|row| row.get(11)) == Some(true)
    }

    /// A seek has skipped it if its partition begins after a greater position than this: a redriven one is left by the seeks
    /// before.
    fn skip_after(&self) -> i64 {
        let kept = self.waiting_row().and_then(|row| row.get(12));
        kept.unwrap_or(self.position() - 1)
    }

    /// What it has in common with the events that keep their order with it.
    #[must_use]
    pub fn order_key(&self, subscription: &Subscription) -> Option<Vec<u8>> {
        if let Some(row) = self.waiting_row() {
            return row.get(10);
        }
        let partition = self.get(PARTITION).unwrap_or(0);
        subscription.ordering.order_key(self.bytes(KEY), self.topic(), partition)
    }

    /// The first arguments of the statements that copy it.
    fn copied(&self, subscription: &Subscription, lane: u16) -> Vec<Option<pg_sys::Datum>> {
        let mut arguments = vec![subscription.id.into_datum(), lane_number(lane).into_datum()];
        arguments.extend(self.columns);
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

/// What a statement above has selected, but for its last columns.
fn columns(row: &Row) -> [Option<pg_sys::Datum>; COLUMNS] {
    std::array::from_fn(|column| i32::try_from(column + 1).ok().and_then(|column| row.datum(column)))
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
