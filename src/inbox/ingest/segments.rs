//! Owns the ring of segments: opens the next one, empties what is no longer needed, and removes outdated rows of progress
//! and of lanes.
//!
//! Runs in: an ingest worker, main thread.

use std::time::{Duration, Instant};

use event_outbox_policy::inbox::retention::{self, Segment};
use pgrx::prelude::*;

use super::{Ingest, duplicates};
use crate::inbox::table::as_owner;
use crate::pg::compat;
use crate::pg::spi::{Access, Statement};
use crate::worker::transaction;

/// The time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(10);

static ALL: Statement = Statement::new(
    c"SELECT s.number, s.first_position, s.opened_at FROM inbox.segment AS s ORDER BY s.first_position",
    &[],
);

static OPEN: Statement = Statement::new(
    c"INSERT INTO inbox.segment (number, first_position) VALUES ($1, $2) ON CONFLICT DO NOTHING",
    &[pg_sys::INT2OID, pg_sys::INT8OID],
);

static RETENTION: Statement = Statement::new(
    c"SELECT coalesce(pg_catalog.max(pg_catalog.date_part('epoch', s.retention)), 0) FROM inbox.subscription AS s",
    &[],
);

/// The size of a segment.
static BYTES: Statement = Statement::new(
    c"SELECT pg_catalog.pg_table_size(pg_catalog.concat('inbox.log_', $1)::pg_catalog.regclass)",
    &[pg_sys::INT4OID],
);

/// A subscription that has not received all events before a position, if there is any.
static LAGGARD: Statement = Statement::new(
    c"SELECT s.name \
        FROM inbox.subscription AS s CROSS JOIN pg_catalog.generate_series(0, 63) AS n \
        LEFT JOIN LATERAL (SELECT l.upto FROM inbox.lane AS l \
                            WHERE l.subscription_id OPERATOR(pg_catalog.=) s.id AND l.lane OPERATOR(pg_catalog.=) n \
                            ORDER BY l.seq DESC LIMIT 1) AS l ON true \
       WHERE EXISTS (SELECT FROM inbox.log AS e \
                      WHERE e.source_id OPERATOR(pg_catalog.=) s.source_id AND e.lane OPERATOR(pg_catalog.=) n \
                        AND e.position OPERATOR(pg_catalog.>) coalesce(l.upto, s.first_position) \
                        AND e.position OPERATOR(pg_catalog.<) $1 \
                        AND e.position OPERATOR(pg_catalog.<=) coalesce(s.last_position, e.position) \
                        AND (s.source_id OPERATOR(pg_catalog.<>) s.id OR e.position OPERATOR(pg_catalog.>) \
                             (SELECT p.first_position FROM inbox.partition AS p \
                               WHERE p.source_id OPERATOR(pg_catalog.=) e.source_id \
                                 AND p.number OPERATOR(pg_catalog.=) e.partition))) \
       LIMIT 1",
    &[pg_sys::INT8OID],
);

static FORGET: Statement =
    Statement::new(c"DELETE FROM inbox.segment WHERE number OPERATOR(pg_catalog.=) $1", &[pg_sys::INT2OID]);

/// Fails at once if somebody reads or writes the segment: while this waited, receivers would wait behind it.
static LOCK: [Statement; retention::SEGMENTS] = [
    Statement::new(c"LOCK TABLE inbox.log_0 IN ACCESS EXCLUSIVE MODE NOWAIT", &[]),
    Statement::new(c"LOCK TABLE inbox.log_1 IN ACCESS EXCLUSIVE MODE NOWAIT", &[]),
    Statement::new(c"LOCK TABLE inbox.log_2 IN ACCESS EXCLUSIVE MODE NOWAIT", &[]),
    Statement::new(c"LOCK TABLE inbox.log_3 IN ACCESS EXCLUSIVE MODE NOWAIT", &[]),
    Statement::new(c"LOCK TABLE inbox.log_4 IN ACCESS EXCLUSIVE MODE NOWAIT", &[]),
    Statement::new(c"LOCK TABLE inbox.log_5 IN ACCESS EXCLUSIVE MODE NOWAIT", &[]),
    Statement::new(c"LOCK TABLE inbox.log_6 IN ACCESS EXCLUSIVE MODE NOWAIT", &[]),
    Statement::new(c"LOCK TABLE inbox.log_7 IN ACCESS EXCLUSIVE MODE NOWAIT", &[]),
];

static EMPTY: [Statement; retention::SEGMENTS] = [
    Statement::new(c"TRUNCATE inbox.log_0", &[]),
    Statement::new(c"TRUNCATE inbox.log_1", &[]),
    Statement::new(c"TRUNCATE inbox.log_2", &[]),
    Statement::new(c"TRUNCATE inbox.log_3", &[]),
    Statement::new(c"TRUNCATE inbox.log_4", &[]),
    Statement::new(c"TRUNCATE inbox.log_5", &[]),
    Statement::new(c"TRUNCATE inbox.log_6", &[]),
    Statement::new(c"TRUNCATE inbox.log_7", &[]),
];

/// Keeps some former rows, which show what happened last.
static PRUNE_PROGRESS: Statement = Statement::new(
    c"DELETE FROM inbox.progress AS p USING \
          (SELECT p.source_id, pg_catalog.max(p.batch) AS last FROM inbox.progress AS p GROUP BY p.source_id) AS n \
       WHERE p.source_id OPERATOR(pg_catalog.=) n.source_id AND p.batch OPERATOR(pg_catalog.<) (n.last OPERATOR(pg_catalog.-) 100)",
    &[],
);

static PRUNE_LANES: Statement = Statement::new(
    c"DELETE FROM inbox.lane AS l \
       USING inbox.subscription AS s CROSS JOIN pg_catalog.generate_series(0, 63) AS n \
             CROSS JOIN LATERAL (SELECT m.seq FROM inbox.lane AS m \
                                  WHERE m.subscription_id OPERATOR(pg_catalog.=) s.id \
                                    AND m.lane OPERATOR(pg_catalog.=) n ORDER BY m.seq DESC LIMIT 1) AS newest \
       WHERE l.subscription_id OPERATOR(pg_catalog.=) s.id AND l.lane OPERATOR(pg_catalog.=) n \
         AND l.seq OPERATOR(pg_catalog.<) (newest.seq OPERATOR(pg_catalog.-) 10)",
    &[],
);

/// The segments, and when to look at them.
#[derive(Debug, Default)]
pub struct Segments {
    /// Those that hold events, the oldest first.
    all: Vec<Segment>,
    /// The one that the next batch begins.
    begins: Option<usize>,
    next_look: Option<Instant>,
}

impl Segments {
    /// Reads them. Call it in a transaction.
    #[must_use]
    pub fn load() -> Vec<Segment> {
        as_owner(|| {
            let segment = |row: crate::pg::spi::Row| {
                Some(Segment {
                    number: usize::try_from(row.get::<i16>(1)?).ok()?,
                    first_position: row.get(2)?,
                    opened_at: compat::unix_micros(row.datum(3)?.value() as i64),
                })
            };
            ALL.execute(&[], Access::Read, 0).iter().filter_map(segment).collect()
        })
    }

    /// Takes over what was read.
    pub fn set(&mut self, all: Vec<Segment>) {
        self.begins = if all.is_empty() { retention::next_free(&all) } else { None };
        self.all = all;
    }

    /// The segment in which the next batch is stored.
    #[must_use]
    pub fn current(&self) -> usize {
        self.begins.or(self.all.last().map(|last| last.number)).unwrap_or(0)
    }

    /// In the transaction that stores a batch after this position: notes that its segment begins, if it does.
    pub fn begin(&self, after: i64) {
        if let Some(number) = self.begins {
            let number = i16::try_from(number).unwrap_or(0);
            as_owner(|| {
                OPEN.execute(&[number.into_datum(), (after + 1).into_datum()], Access::Write, 0).len()
            });
        }
    }

    /// The batch after this position is stored.
    pub fn begun(&mut self, after: i64) {
        if let Some(number) = self.begins.take() {
            self.all.push(Segment { number, first_position: after + 1, opened_at: crate::pg::now() });
        }
    }
}

impl Ingest {
    /// When to look at the segments again.
    pub(super) fn next_tending(&self) -> Option<Instant> {
        self.segments.next_look
    }

    /// Goes on in the next segment if it is time, empties the oldest one if it is no longer needed, and removes outdated
    /// rows.
    pub(super) fn tend_segments(&mut self) {
        if self.segments.next_look.is_some_and(|date| date > Instant::now()) {
            return;
        }
        self.segments.next_look = Some(Instant::now() + LOOK_EVERY);
        let prune = || {
            as_owner(|| {
                PRUNE_PROGRESS.execute(&[], Access::Write, 0);
                PRUNE_LANES.execute(&[], Access::Write, 0);
            });
        };
        let _ = self.note(transaction::run(c"event_outbox: removing outdated rows", prune));
        // If somebody reads them, the next look tries again: that is not a failure of the worker.
        let _ = transaction::run(c"event_outbox: forgetting ids", || as_owner(duplicates::forget));
        let Some(current) = self.segments.all.last().copied() else { return };
        let look = || {
            as_owner(|| {
                let number = i32::try_from(current.number).unwrap_or(0);
                let first = |statement: &Statement, arguments: &[_]| {
                    statement.execute(arguments, Access::Read, 1).iter().next()
                };
                let seconds: f64 = first(&RETENTION, &[]).and_then(|row| row.get(1)).unwrap_or(0.0);
                let bytes: i64 =
                    first(&BYTES, &[number.into_datum()]).and_then(|row| row.get(1)).unwrap_or(0);
                ((seconds * 1e6) as i64, bytes.unsigned_abs())
            })
        };
        let Some((retention, bytes)) = self.note(transaction::run(c"event_outbox: looking at the log", look))
        else {
            return;
        };
        let now = crate::pg::now();
        if self.segments.begins.is_none() && retention::should_leave(&current, bytes, retention, now) {
            self.segments.begins = retention::next_free(&self.segments.all);
        }
        if let Some(oldest) = retention::expired(&self.segments.all, retention, now) {
            self.empty(oldest);
        }
    }

    /// Empties the oldest segment, unless a subscription has not received all its events. Whoever reads it holds this up.
    fn empty(&mut self, oldest: Segment) {
        let Some(next) = self.segments.all.get(1).map(|next| next.first_position) else { return };
        let number = i16::try_from(oldest.number).unwrap_or(0);
        let work = || {
            as_owner(|| {
                let is_needed = !LAGGARD.execute(&[next.into_datum()], Access::Read, 1).is_empty();
                if !is_needed {
                    LOCK[oldest.number].execute(&[], Access::Write, 0);
                    EMPTY[oldest.number].execute(&[], Access::Write, 0);
                    FORGET.execute(&[number.into_datum()], Access::Write, 0);
                }
                !is_needed
            })
        };
        // If somebody reads the segment, the next look tries again: that is not a failure of the worker.
        if transaction::run(c"event_outbox: emptying a segment", work).unwrap_or(false) {
            self.segments.all.retain(|segment| segment.number != oldest.number);
        }
    }
}
