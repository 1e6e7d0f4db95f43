//! Owns the archive: events are stored in it when they are settled, if somebody has archived their topics, and leave it by
//! segments.
//!
//! Runs in: a relay's background worker, main thread.
//!
//! While no topic is archived, a settlement makes no statement for it: the table of the topics has no page.

use std::collections::HashSet;

use event_outbox_policy::delivery::notify::Published;
use event_outbox_policy::event::topic::Pattern;
use event_outbox_policy::inbox::retention::{self, SEGMENTS, Segment};
use pgrx::prelude::*;

use crate::outbox::table::identity::RowIdentity;
use crate::outbox::table::outbox::Outbox;
use crate::outbox::table::{ARCHIVE_SEGMENT, ARCHIVED_TOPICS, EVENTS, member, statements};
use crate::pg::bulk_insert::{Column, Target};
use crate::pg::catalog::Member;
use crate::pg::snapshot::Snapshot;
use crate::pg::spi::{self, Access, Row, Statement};
use crate::pg::user_context::{Owner, UserContext};
use crate::pg::{catalog, compat};

/// The tables of the segments.
const TABLES: [Member; SEGMENTS] = [
    member(c"archive_0"),
    member(c"archive_1"),
    member(c"archive_2"),
    member(c"archive_3"),
    member(c"archive_4"),
    member(c"archive_5"),
    member(c"archive_6"),
    member(c"archive_7"),
];

/// The columns of a segment. Its index has the first two.
const COLUMNS: [Column; 13] = [
    (c"topic", pg_sys::TEXTOID, false),
    (c"published_at", pg_sys::TIMESTAMPTZOID, false),
    (c"partition", pg_sys::INT4OID, false),
    (c"offset", pg_sys::INT8OID, false),
    (c"id", pg_sys::INT8OID, false),
    (c"event_id", pg_sys::UUIDOID, false),
    (c"emitted_at", pg_sys::TIMESTAMPTZOID, false),
    (c"chosen_partition", pg_sys::INT4OID, true),
    (c"key", pg_sys::BYTEAOID, true),
    (c"payload", pg_sys::BYTEAOID, true),
    (c"headers", pg_sys::JSONOID, true),
    (c"event_type", pg_sys::TEXTOID, true),
    (c"content_type", pg_sys::TEXTOID, true),
];
const KEYS: usize = 2;

const TYPES: [pg_sys::Oid; COLUMNS.len()] = {
    let mut types = [pg_sys::InvalidOid; COLUMNS.len()];
    let mut at = 0;
    while at < types.len() {
        types[at] = COLUMNS[at].1;
        at += 1;
    }
    types
};

/// The archived topics, and the seconds of their retention.
static PATTERNS: Statement = Statement::new(
    c"SELECT a.pattern, pg_catalog.date_part('epoch', a.retention) FROM outbox.archived_topics AS a",
    &[],
);

/// The events in the order of the columns, but for the time of the publication.
static READ: Statement = Statement::new(
    c"SELECT e.id, e.topic, p.partition, p.place, e.id, e.event_id, e.emitted_at, e.partition, e.key, e.payload, \
             e.headers, e.event_type, e.content_type \
        FROM unnest($1, $2, $3, $4) AS p (id, event_id, partition, place) \
        JOIN outbox.events AS e ON e.id OPERATOR(pg_catalog.=) p.id AND e.event_id OPERATOR(pg_catalog.=) p.event_id",
    &[pg_sys::INT8ARRAYOID, pg_sys::UUIDARRAYOID, pg_sys::INT4ARRAYOID, pg_sys::INT8ARRAYOID],
);

static ALL: Statement = Statement::new(
    c"SELECT s.number, s.first_position, s.opened_at FROM outbox.archive_segment AS s ORDER BY s.first_position",
    &[],
);

static OPEN: Statement = Statement::new(
    c"INSERT INTO outbox.archive_segment (number, first_position) VALUES ($1, $2)",
    &[pg_sys::INT2OID, pg_sys::INT8OID],
);

static FORGET: Statement = Statement::new(
    c"DELETE FROM outbox.archive_segment WHERE number OPERATOR(pg_catalog.=) $1",
    &[pg_sys::INT2OID],
);

static BYTES: Statement = Statement::new(
    c"SELECT pg_catalog.pg_table_size(pg_catalog.concat('outbox.archive_', $1)::pg_catalog.regclass)",
    &[pg_sys::INT4OID],
);

/// A statement for each segment.
macro_rules! for_segments {
    ($before:literal, $after:literal, $types:expr) => {
        [
            Statement::new(spi::text!($before, "0", $after), $types),
            Statement::new(spi::text!($before, "1", $after), $types),
            Statement::new(spi::text!($before, "2", $after), $types),
            Statement::new(spi::text!($before, "3", $after), $types),
            Statement::new(spi::text!($before, "4", $after), $types),
            Statement::new(spi::text!($before, "5", $after), $types),
            Statement::new(spi::text!($before, "6", $after), $types),
            Statement::new(spi::text!($before, "7", $after), $types),
        ]
    };
}

/// Used if somebody has changed the table.
static INSERT: [Statement; SEGMENTS] = for_segments!(
    "INSERT INTO outbox.archive_",
    " (topic, published_at, partition, \"offset\", id, event_id, emitted_at, chosen_partition, key, payload, headers, \
       event_type, content_type) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
    &TYPES
);

/// Fails at once if somebody reads the segment: while this waited, the settlement would wait behind it.
static LOCK: [Statement; SEGMENTS] =
    for_segments!("LOCK TABLE outbox.archive_", " IN ACCESS EXCLUSIVE MODE NOWAIT", &[]);

static EMPTY: [Statement; SEGMENTS] = for_segments!("TRUNCATE outbox.archive_", "", &[]);

/// Deletes published events, and archives those of archived topics: see [`statements::delete`]. Within the transaction of a
/// settlement. `rows` and `published` have the same events in the same order.
#[must_use]
pub fn delete(outbox: Outbox, rows: &[RowIdentity], published: &[Published]) -> Vec<i64> {
    let patterns: Vec<Pattern> = patterns().into_iter().map(|(pattern, _)| pattern).collect();
    let is_archived = |topic: &str| patterns.iter().any(|pattern| pattern.matches(topic));
    let chosen: Vec<_> = match patterns.len() {
        0 => Vec::new(),
        _ => rows.iter().zip(published).filter(|(_, event)| is_archived(&event.topic)).collect(),
    };
    if chosen.is_empty() {
        return statements::delete(outbox, rows);
    }
    spi::connected(|| {
        let arguments = [
            chosen.iter().map(|(row, _)| row.id).collect::<Vec<_>>().into_datum(),
            chosen
                .iter()
                .map(|(row, _)| pgrx::Uuid::from_bytes(row.event_id))
                .collect::<Vec<_>>()
                .into_datum(),
            chosen.iter().map(|(_, event)| event.partition).collect::<Vec<_>>().into_datum(),
            chosen.iter().map(|(_, event)| event.offset).collect::<Vec<_>>().into_datum(),
        ];
        let events = {
            let _owner = UserContext::confined_to(Owner::of(EVENTS));
            READ.execute(&arguments, Access::Read, 0)
        };
        let changed = statements::delete(outbox, rows);
        let stay: HashSet<i64> = changed.iter().copied().collect();
        let gone: Vec<Row> =
            events.iter().filter(|row| row.get(1).is_none_or(|id: i64| !stay.contains(&id))).collect();
        store(&gone);
        changed
    })
}

/// The archived topics, and how long their events are kept, in microseconds. Objects of an earlier version have none.
fn patterns() -> Vec<(Pattern, i64)> {
    let table = ARCHIVED_TOPICS.oid();
    if table == pg_sys::InvalidOid || !catalog::has_pages(table) {
        return Vec::new();
    }
    let _owner = UserContext::confined_to(Owner::of(ARCHIVED_TOPICS));
    let pattern = |row: Row| Some((Pattern::new(row.get(1)?), (row.get::<f64>(2)? * 1e6) as i64));
    spi::connected(|| PATTERNS.execute(&[], Access::Read, 0).iter().filter_map(pattern).collect())
}

/// The segments that hold events, the oldest first.
fn segments() -> Vec<Segment> {
    let segment = |row: Row| {
        Some(Segment {
            number: usize::try_from(row.get::<i16>(1)?).ok().filter(|number| *number < SEGMENTS)?,
            first_position: row.get(2)?,
            opened_at: compat::unix_micros(row.datum(3)?.value() as i64),
        })
    };
    let _owner = UserContext::confined_to(Owner::of(ARCHIVE_SEGMENT));
    spi::connected(|| ALL.execute(&[], Access::Read, 0).iter().filter_map(segment).collect())
}

/// Goes on in this segment.
fn open(number: usize, first_position: i64) {
    let _owner = UserContext::confined_to(Owner::of(ARCHIVE_SEGMENT));
    let arguments = [i16::try_from(number).ok().and_then(IntoDatum::into_datum), first_position.into_datum()];
    spi::connected(|| {
        OPEN.execute(&arguments, Access::Write, 0);
    });
}

fn store(events: &[Row]) {
    if events.is_empty() {
        return;
    }
    let number = segments().last().map_or_else(
        || {
            open(0, 1);
            0
        },
        |last| last.number,
    );
    let now = Some(pg_sys::Datum::from(compat::pg_timestamp(crate::pg::now())));
    let columns = |row: &Row| -> [Option<pg_sys::Datum>; COLUMNS.len()] {
        // Of the row: its id, the topic, and from the third column on those behind the time.
        std::array::from_fn(|at| match at {
            0 => row.datum(2),
            1 => now,
            _ => row.datum(i32::try_from(at + 1).unwrap_or(i32::MAX)),
        })
    };
    if let Some(target) = Target::open(TABLES[number].existing(), &COLUMNS, KEYS) {
        target.insert(events.len(), |at, values, nulls| {
            for (column, value) in columns(&events[at]).into_iter().enumerate() {
                nulls[column] = value.is_none();
                values[column] = value.unwrap_or(pg_sys::Datum::from(0_usize));
            }
        });
        return;
    }
    let _owner = UserContext::confined_to(Owner::of(TABLES[number]));
    for event in events {
        INSERT[number].execute(&columns(event), Access::Write, 0);
    }
}

/// Whether there may be more to do with the segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tended {
    /// One step was taken.
    Step,
    /// Nothing is left to do.
    All,
}

/// Takes one step with the segments: goes on in the next one, or empties the oldest. Within a transaction.
pub fn tend() -> Tended {
    let table = ARCHIVE_SEGMENT.oid();
    if table == pg_sys::InvalidOid || !catalog::has_pages(table) {
        return Tended::All;
    }
    let _snapshot = Snapshot::take();
    let (all, now) = (segments(), crate::pg::now());
    let Some(current) = all.last() else { return Tended::All };
    let Some(longest) = patterns().into_iter().map(|(_, retention)| retention).max() else {
        // Nothing is archived any more.
        all.iter().for_each(|segment| empty(*segment));
        return Tended::All;
    };
    if let Some(oldest) = retention::expired(&all, longest, now) {
        empty(oldest);
        return Tended::Step;
    }
    let bytes = spi::connected(|| {
        let number = i32::try_from(current.number).unwrap_or(0).into_datum();
        let size = BYTES.execute(&[number], Access::Read, 1).iter().next().and_then(|row| row.get::<i64>(1));
        size.unwrap_or(0).unsigned_abs()
    });
    if retention::should_leave(current, bytes, longest, now)
        && let Some(next) = retention::next_free(&all)
    {
        open(next, current.first_position + 1);
    }
    Tended::All
}

fn empty(segment: Segment) {
    {
        let _owner = UserContext::confined_to(Owner::of(TABLES[segment.number]));
        for statement in [&LOCK, &EMPTY] {
            spi::connected(|| {
                statement[segment.number].execute(&[], Access::Write, 0);
            });
        }
    }
    let _owner = UserContext::confined_to(Owner::of(ARCHIVE_SEGMENT));
    let number = i16::try_from(segment.number).ok().and_then(IntoDatum::into_datum);
    spi::connected(|| {
        FORGET.execute(&[number], Access::Write, 0);
    });
}
