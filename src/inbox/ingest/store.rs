//! Stores a batch: its events and the offsets up to which they were read, in one transaction.
//!
//! Runs in: an ingest worker, main thread, in a transaction.

use event_outbox_policy::inbox::lanes::Ordering;
use event_outbox_policy::inbox::records::{RecordBatch, RecordRef};
use pgrx::prelude::*;

use crate::inbox::table::as_owner;
use crate::pg::compat;
use crate::pg::spi::{Access, Statement};

/// The number of segments of the log.
pub const SEGMENTS: usize = 8;

/// A batch to store.
pub struct Batch<'a> {
    /// The subscription.
    pub source: i32,
    /// Which events keep their order.
    pub ordering: Ordering,
    /// The generation for which it was read.
    pub generation: i64,
    /// Its number.
    pub number: i64,
    /// The events.
    pub records: &'a RecordBatch,
    /// The next offset of each partition after it.
    pub next_offsets: Vec<Option<i64>>,
    /// The position before its first event.
    pub after: i64,
    /// The segment to store it in.
    pub segment: usize,
    /// The channel to notify, if sessions are to be notified.
    pub notified: Option<&'a str>,
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// It is stored. The last position.
    UpTo(i64),
    /// The subscription was dropped, or has moved: nothing was stored.
    Outdated,
}

static GENERATION: Statement = Statement::new(
    c"SELECT s.generation FROM inbox.subscription AS s WHERE s.id OPERATOR(pg_catalog.=) $1 FOR SHARE",
    &[pg_sys::INT4OID],
);

static PROGRESS: Statement = Statement::new(
    c"INSERT INTO inbox.progress (source_id, batch, generation, next_offsets, last_position) \
      VALUES ($1, $2, $3, $4, $5)",
    &[pg_sys::INT4OID, pg_sys::INT8OID, pg_sys::INT8OID, pg_sys::INT8ARRAYOID, pg_sys::INT8OID],
);

static NOTIFY: Statement = Statement::new(
    c"SELECT pg_catalog.pg_notify(inbox.channel($1), pg_catalog.json_build_object( \
          'first_position', $2, 'last_position', $3, 'count', $4)::text)",
    &[pg_sys::TEXTOID, pg_sys::INT8OID, pg_sys::INT8OID, pg_sys::INT8OID],
);

const COLUMNS: &[pg_sys::Oid] = &[
    pg_sys::INT4OID,
    pg_sys::INT2ARRAYOID,
    pg_sys::INT8OID,
    pg_sys::INT4ARRAYOID,
    pg_sys::INT8ARRAYOID,
    pg_sys::TIMESTAMPTZARRAYOID,
    pg_sys::BYTEAARRAYOID,
    pg_sys::BYTEAARRAYOID,
    pg_sys::BYTEAARRAYOID,
];

macro_rules! into_segment {
    ($table:literal) => {
        match std::ffi::CStr::from_bytes_with_nul(
            concat!(
                "INSERT INTO inbox.",
                $table,
                " (source_id, lane, position, partition, \"offset\", produced_at, key, value, headers) \
                 SELECT $1, e.lane, $3 OPERATOR(pg_catalog.+) e.number, e.partition, e.\"offset\", e.produced_at, e.key, \
                        e.value, e.headers \
                   FROM unnest($2, $4, $5, $6, $7, $8, $9) WITH ORDINALITY \
                        AS e (lane, partition, \"offset\", produced_at, key, value, headers, number)\0"
            )
            .as_bytes(),
        ) {
            Ok(text) => Statement::new(text, COLUMNS),
            Err(_) => unreachable!(),
        }
    };
}

/// Stores events, by segment.
static EVENTS: [Statement; SEGMENTS] = [
    into_segment!("log_0"),
    into_segment!("log_1"),
    into_segment!("log_2"),
    into_segment!("log_3"),
    into_segment!("log_4"),
    into_segment!("log_5"),
    into_segment!("log_6"),
    into_segment!("log_7"),
];

impl Batch<'_> {
    /// Stores it.
    pub fn store(&self) -> Stored {
        as_owner(|| {
            let source = self.source.into_datum();
            // A seek waits for this transaction, or this one for the seek.
            let rows = GENERATION.execute(&[source], Access::Write, 1);
            let generation: Option<i64> = rows.iter().next().and_then(|row| row.get(1));
            if generation != Some(self.generation) {
                return Stored::Outdated;
            }
            let count = i64::try_from(self.records.len()).unwrap_or(i64::MAX);
            let last = self.after + count;
            if count > 0 {
                self.insert_events();
            }
            PROGRESS.execute(
                &[
                    source,
                    self.number.into_datum(),
                    self.generation.into_datum(),
                    self.next_offsets.clone().into_datum(),
                    last.into_datum(),
                ],
                Access::Write,
                0,
            );
            if let Some(name) = self.notified.filter(|_| count > 0) {
                let first = self.after + 1;
                NOTIFY.execute(
                    &[name.into_datum(), first.into_datum(), last.into_datum(), count.into_datum()],
                    Access::Write,
                    0,
                );
            }
            Stored::UpTo(last)
        })
    }

    fn insert_events(&self) {
        let lane =
            |record: &RecordRef<'_>| self.ordering.lane(record.key, record.partition, record.offset) as i16;
        let time = |record: &RecordRef<'_>| {
            let micros = record.timestamp_ms?.checked_mul(1000)?;
            TimestampWithTimeZone::try_from(compat::pg_timestamp(micros)).ok()
        };
        let records = || self.records.iter();
        let arguments = [
            self.source.into_datum(),
            records().map(|record| lane(&record)).collect::<Vec<i16>>().into_datum(),
            self.after.into_datum(),
            records().map(|record| record.partition).collect::<Vec<i32>>().into_datum(),
            records().map(|record| record.offset).collect::<Vec<i64>>().into_datum(),
            records().map(|record| time(&record)).collect::<Vec<_>>().into_datum(),
            records().map(|record| record.key).collect::<Vec<_>>().into_datum(),
            records().map(|record| record.value).collect::<Vec<_>>().into_datum(),
            records()
                .map(|record| Some(record.headers).filter(|headers| !headers.is_empty()))
                .collect::<Vec<_>>()
                .into_datum(),
        ];
        EVENTS[self.segment].execute(&arguments, Access::Write, 0);
    }
}
