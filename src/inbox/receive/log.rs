//! Owns the reads of the log: of those segments alone in which there can be something to receive.
//!
//! Runs in: client backends, and the ingest worker.
//!
//! A transaction keeps the lock of each segment that it has read, and the worker empties a segment only when nobody has a
//! lock of it. So sessions that keep up leave the old segments alone.

use event_outbox_policy::inbox::retention::SEGMENTS;
use pgrx::prelude::*;

use crate::pg::spi::{Access, Rows, Statement, text};

/// A statement for each segment, whose table stands between the two parts.
macro_rules! of_each_segment {
    ($before:literal, $after:literal, $types:expr) => {
        [
            Statement::ordered(text!($before, "inbox.log_0", $after), $types),
            Statement::ordered(text!($before, "inbox.log_1", $after), $types),
            Statement::ordered(text!($before, "inbox.log_2", $after), $types),
            Statement::ordered(text!($before, "inbox.log_3", $after), $types),
            Statement::ordered(text!($before, "inbox.log_4", $after), $types),
            Statement::ordered(text!($before, "inbox.log_5", $after), $types),
            Statement::ordered(text!($before, "inbox.log_6", $after), $types),
            Statement::ordered(text!($before, "inbox.log_7", $after), $types),
        ]
    };
}

/// The events of a lane after a position. The last column: whether no seek has skipped it.
static EVENTS: [Statement; SEGMENTS] = of_each_segment!(
    "SELECT l.position, p.topic, p.partition, l.\"offset\", l.produced_at, l.key, l.value, l.headers, \
            l.position OPERATOR(pg_catalog.>) p.first_position \
       FROM ",
    " AS l JOIN inbox.partition AS p ON p.source_id OPERATOR(pg_catalog.=) l.source_id \
                  AND p.number OPERATOR(pg_catalog.=) l.partition \
       WHERE l.source_id OPERATOR(pg_catalog.=) $1 AND l.lane OPERATOR(pg_catalog.=) $2 \
         AND l.position OPERATOR(pg_catalog.>) $3 AND l.position OPERATOR(pg_catalog.<=) $4 \
       ORDER BY l.position LIMIT $5",
    &[pg_sys::INT4OID, pg_sys::INT2OID, pg_sys::INT8OID, pg_sys::INT8OID, pg_sys::INT8OID]
);

/// Which of the lanes `$2` have an event after the position in `$3`. An EXISTS would become a join, for which the whole segment
/// may be read.
static LANES: [Statement; SEGMENTS] = of_each_segment!(
    "SELECT ($2)[i.i] FROM pg_catalog.generate_subscripts($2, 1) AS i(i) \
      WHERE (SELECT true FROM ",
    " AS l WHERE l.source_id OPERATOR(pg_catalog.=) $1 AND l.lane OPERATOR(pg_catalog.=) ($2)[i.i] \
                 AND l.position OPERATOR(pg_catalog.>) ($3)[i.i] AND l.position OPERATOR(pg_catalog.<=) $4 \
              ORDER BY l.position LIMIT 1)",
    &[pg_sys::INT4OID, pg_sys::INT2ARRAYOID, pg_sys::INT8ARRAYOID, pg_sys::INT8OID]
);

/// A segment that holds events.
#[derive(Debug, Clone, Copy)]
pub struct Segment {
    /// Its number.
    pub number: usize,
    /// The last position that can be in it.
    pub last: i64,
}

/// The log of a subscription, in the segments that held events when this was read.
#[derive(Debug, Clone)]
pub struct Log {
    /// The subscription that has stored the events.
    pub source: i32,
    /// No later one is received.
    pub last_position: i64,
    segments: Vec<Segment>,
}

impl Log {
    /// The log of `source` up to a position. The segments are given by their numbers and first positions, in the order of the
    /// latter.
    #[must_use]
    pub fn new(source: i32, last_position: i64, numbers: &[i16], first_positions: &[i64]) -> Self {
        let ends = first_positions.iter().skip(1).map(|next| next - 1).chain([i64::MAX]);
        let segments = numbers.iter().zip(ends).filter_map(|(number, last)| {
            let number = usize::try_from(*number).ok().filter(|number| *number < SEGMENTS)?;
            Some(Segment { number, last })
        });
        Self { source, last_position, segments: segments.collect() }
    }

    /// The segments that can have an event after a position, in their order.
    pub fn after(&self, position: i64) -> impl Iterator<Item = Segment> + '_ {
        self.segments.iter().copied().filter(move |segment| segment.last > position)
    }

    /// Up to `limit` rows of events of a lane after `after` in a segment, in their order, read in SQL.
    #[must_use]
    pub fn rows(&self, segment: Segment, lane: i16, after: i64, limit: usize) -> Rows {
        let arguments = [
            self.source.into_datum(),
            lane.into_datum(),
            after.into_datum(),
            self.last_position.min(segment.last).into_datum(),
            i64::try_from(limit).unwrap_or(i64::MAX).into_datum(),
        ];
        EVENTS[segment.number].execute(&arguments, Access::Read, 0)
    }

    /// Those of the lanes that have an event after their position.
    #[must_use]
    pub fn lanes_with_events(&self, lanes: &[(i16, i64)]) -> Vec<i16> {
        let mut found = Vec::new();
        let Some(first) = lanes.iter().map(|(_, upto)| *upto).min() else { return found };
        for segment in self.after(first) {
            let (numbers, positions): (Vec<i16>, Vec<i64>) = lanes
                .iter()
                .copied()
                .filter(|(lane, upto)| *upto < segment.last && !found.contains(lane))
                .unzip();
            let arguments = [
                self.source.into_datum(),
                numbers.into_datum(),
                positions.into_datum(),
                self.last_position.min(segment.last).into_datum(),
            ];
            let rows = LANES[segment.number].execute(&arguments, Access::Read, 0);
            found.extend(rows.iter().filter_map(|row| row.get::<i16>(1)));
        }
        found
    }
}
