//! Owns what the relay clears away at each full sweep: idempotency keys, dead letters and segments of the archive that
//! are older than their retention.
//!
//! Runs in: a relay's background worker, main thread.
//!
//! No lock of it waits: who waits for a lock has others wait behind it, here sessions that emit.

use std::ffi::CStr;
use std::time::{Duration, Instant};

use event_outbox_policy::event::idempotency::{Period, Step, Table};
use pgrx::prelude::*;

use super::Relay;
use super::archive::{self, Tended};
use crate::outbox::table::idempotency::{self, PERIOD, member};
use crate::outbox::table::{DEAD_LETTER_LOG, DEAD_LETTERS};
use crate::pg::snapshot::Snapshot;
use crate::pg::spi::{self, Access, Statement};
use crate::pg::user_context::{Owner, UserContext};
use crate::pg::{catalog, compat};
use crate::settings::relay::Settings;
use crate::worker::transaction::{self, Failed};

/// Fails at once while a transaction that has stored a key is running.
static LOCK_WRITERS: [Statement; 2] = [
    Statement::new(c"LOCK TABLE outbox.idempotency_a IN SHARE MODE NOWAIT", &[]),
    Statement::new(c"LOCK TABLE outbox.idempotency_b IN SHARE MODE NOWAIT", &[]),
];

/// Fails at once while a session looks into the table.
static LOCK_ALL: [Statement; 2] = [
    Statement::new(c"LOCK TABLE outbox.idempotency_a IN ACCESS EXCLUSIVE MODE NOWAIT", &[]),
    Statement::new(c"LOCK TABLE outbox.idempotency_b IN ACCESS EXCLUSIVE MODE NOWAIT", &[]),
];

static EMPTY: [Statement; 2] = [
    Statement::new(c"TRUNCATE outbox.idempotency_a", &[]),
    Statement::new(c"TRUNCATE outbox.idempotency_b", &[]),
];

/// How many dead letters are deleted in one transaction.
const BATCH: i32 = 1_000;

/// Deletes the oldest dead letters that have expired, up to a batch, but those that a session has locked. They died in the
/// order of their ids, so no others are looked at.
static EXPIRE: Statement = Statement::new(
    c"WITH oldest AS (SELECT d.dead_letter_id, d.last_refused_at FROM outbox.dead_letters AS d \
                       ORDER BY d.dead_letter_id LIMIT $2 FOR UPDATE SKIP LOCKED), \
           gone AS (DELETE FROM outbox.dead_letters AS d \
                     USING (SELECT o.dead_letter_id FROM oldest AS o WHERE o.last_refused_at OPERATOR(pg_catalog.<) $1) AS o \
                     WHERE d.dead_letter_id OPERATOR(pg_catalog.=) o.dead_letter_id RETURNING d.*) \
      SELECT pg_catalog.count(*)::pg_catalog.int4, pg_catalog.array_agg(g.event_id), pg_catalog.array_agg(g.topic), pg_catalog.array_agg(g.error_class), \
             pg_catalog.array_agg(g.last_refused_at) FROM gone AS g",
    &[pg_sys::TIMESTAMPTZOID, pg_sys::INT4OID],
);

static LOG_EXPIRED: Statement = Statement::new(
    c"INSERT INTO outbox.dead_letter_log (action, event_id, topic, error_class, died_at) \
      SELECT 'expired', g.event_id, g.topic, g.error_class, g.died_at \
        FROM unnest($1, $2, $3, $4) AS g (event_id, topic, error_class, died_at)",
    &[pg_sys::UUIDARRAYOID, pg_sys::TEXTARRAYOID, pg_sys::TEXTARRAYOID, pg_sys::TIMESTAMPTZARRAYOID],
);

/// Deletes the oldest entries of the log that have expired, up to a batch.
static EXPIRE_LOG: Statement = Statement::new(
    c"WITH oldest AS (SELECT l.log_id, l.logged_at FROM outbox.dead_letter_log AS l \
                       ORDER BY l.log_id LIMIT $2 FOR UPDATE SKIP LOCKED), \
           gone AS (DELETE FROM outbox.dead_letter_log AS l \
                     USING (SELECT o.log_id FROM oldest AS o WHERE o.logged_at OPERATOR(pg_catalog.<) $1) AS o \
                     WHERE l.log_id OPERATOR(pg_catalog.=) o.log_id RETURNING l.log_id) \
      SELECT pg_catalog.count(*)::pg_catalog.int4 FROM gone",
    &[pg_sys::TIMESTAMPTZOID, pg_sys::INT4OID],
);

/// What is to be cleared away.
#[derive(Debug, Default)]
pub struct Tidying {
    is_due: bool,
    /// A whole batch of rows had expired, so there may be more.
    is_unfinished: bool,
}

impl Tidying {
    /// A full sweep has begun.
    pub fn begin(&mut self) {
        self.is_due = true;
    }

    /// When to go on.
    #[must_use]
    pub fn until(&self) -> Option<Instant> {
        self.is_unfinished.then(Instant::now)
    }
}

impl Relay {
    /// Clears away what has expired, after each full sweep.
    pub(super) fn tidy(&mut self) {
        let Tidying { is_due, is_unfinished } = std::mem::take(&mut self.tidying);
        if is_due {
            self.remove_idempotency_keys();
            self.tend_archive();
        }
        if is_due || is_unfinished {
            let Settings { dead_letter_retention, dead_letter_log_retention, .. } = self.settings;
            self.remove(dead_letter_retention, c"event_outbox: removing dead letters", expire_dead_letters);
            self.remove(
                dead_letter_log_retention,
                c"event_outbox: shortening the log of dead letters",
                expire_log,
            );
        }
    }

    /// Deletes a batch of the rows that are older than a retention, which is zero for ever.
    fn remove(&mut self, retention: Duration, activity: &CStr, expire: fn(pg_sys::Datum) -> i32) {
        if retention.is_zero() {
            return;
        }
        let age = i64::try_from(retention.as_micros()).unwrap_or(i64::MAX);
        let before = compat::pg_timestamp(crate::pg::now().saturating_sub(age));
        match transaction::run(activity, || expire(pg_sys::Datum::from(before))) {
            Err(Failed { code: PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE, .. }) => {}
            other => {
                self.tidying.is_unfinished |= self.note(other).is_some_and(|count| count >= BATCH);
            }
        }
    }

    /// Goes on in another segment of the archive if it is time, and empties those that have expired.
    fn tend_archive(&mut self) {
        loop {
            match transaction::run(c"event_outbox: looking at the archive", archive::tend) {
                Ok(Tended::Step) => {}
                Ok(Tended::All) | Err(Failed { code: PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE, .. }) => {
                    break;
                }
                failed => {
                    self.note(failed);
                    break;
                }
            }
        }
    }

    fn remove_idempotency_keys(&mut self) {
        let retention = i64::try_from(self.settings.idempotency_retention.as_micros()).unwrap_or(i64::MAX);
        // One step leads to the next, and after four begins the next period.
        for _ in 0..4 {
            let step = transaction::run(c"event_outbox: removing idempotency keys", || take_step(retention));
            match step {
                Ok(true) => {}
                // Sessions are using the table. The next full sweep tries again.
                Err(Failed { code: PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE, .. }) => break,
                other => {
                    self.note(other);
                    break;
                }
            }
        }
    }
}

/// Takes the next step with the tables of idempotency keys, if there is one.
fn take_step(retention: i64) -> bool {
    let table = PERIOD.oid();
    // Objects of an earlier version have no such table.
    if table == pg_sys::InvalidOid {
        return false;
    }
    let is_used = |table: Table| catalog::has_pages(member(table).existing());
    if !catalog::has_pages(table) && !is_used(Table::A) {
        return false;
    }
    let _snapshot = Snapshot::take();
    let now = crate::pg::now();
    let stored = spi::connected(idempotency::stored_period);
    let Some(present) = stored else {
        store(&Period::first(now));
        return true;
    };
    let Some(step) = present.next_step(is_used(present.table()), retention, now) else { return false };
    let former = present.table().other();
    match step {
        Step::Close => run(former, &[&LOCK_WRITERS]),
        Step::Empty => run(former, &[&LOCK_ALL, &EMPTY]),
        Step::Expire | Step::Begin => {}
    }
    store(&present.after(step, crate::pg::now()));
    true
}

fn run(table: Table, statements: &[&[Statement; 2]]) {
    let _owner = UserContext::confined_to(Owner::of(member(table)));
    for statement in statements {
        spi::connected(|| {
            statement[usize::from(table == Table::B)].execute(&[], Access::Write, 0);
        });
    }
}

fn store(period: &Period) {
    let _owner = UserContext::confined_to(Owner::of(PERIOD));
    spi::connected(|| idempotency::write_period(period));
}

/// Deletes dead letters that died before then. Returns how many.
fn expire_dead_letters(before: pg_sys::Datum) -> i32 {
    // Objects of an earlier version have no log.
    if DEAD_LETTER_LOG.oid() == pg_sys::InvalidOid || !catalog::has_pages(DEAD_LETTERS.existing()) {
        return 0;
    }
    let _snapshot = Snapshot::take();
    spi::connected(|| {
        let gone = {
            let _owner = UserContext::confined_to(Owner::of(DEAD_LETTERS));
            EXPIRE.execute(&[Some(before), BATCH.into_datum()], Access::Write, 0).row(0)
        };
        let count = gone.get(1).unwrap_or(0);
        if count > 0 {
            let _owner = UserContext::confined_to(Owner::of(DEAD_LETTER_LOG));
            let columns = [2, 3, 4, 5].map(|column| gone.datum(column));
            LOG_EXPIRED.execute(&columns, Access::Write, 0);
        }
        count
    })
}

/// Deletes entries that were made before then. Returns how many.
fn expire_log(before: pg_sys::Datum) -> i32 {
    let log = DEAD_LETTER_LOG.oid();
    // Objects of an earlier version have no log.
    if log == pg_sys::InvalidOid || !catalog::has_pages(log) {
        return 0;
    }
    let _snapshot = Snapshot::take();
    let _owner = UserContext::confined_to(Owner::of(DEAD_LETTER_LOG));
    spi::connected(|| EXPIRE_LOG.execute(&[Some(before), BATCH.into_datum()], Access::Write, 0).row(0).get(1))
        .unwrap_or(0)
}
