//! Stores a batch: its events and the offsets up to which they were read, in one transaction.
//!
//! Runs in: an ingest worker, main thread, in a transaction.

use event_outbox_policy::inbox::records::{RecordBatch, RecordRef};
use event_outbox_policy::inbox::retention;
use pgrx::prelude::*;

use super::catalog::Definition;
use super::duplicates;
use crate::failpoints::{self, Point};
use crate::inbox::mistakes;
use crate::inbox::table::{LOG, LOG_COLUMNS, as_owner};
use crate::kafka::consumer::messages::LastRead;
use crate::pg::bulk_insert::Target;
use crate::pg::compat;
use crate::pg::spi::{Access, Statement};

/// The number of columns that the index of a segment covers.
const KEYS: usize = 3;

/// A batch to store.
pub struct Batch<'a> {
    /// The subscription for which it was read.
    pub definition: &'a Definition,
    /// The events.
    pub records: &'a RecordBatch,
    /// The next offset of each partition after it.
    pub next_offsets: Vec<Option<i64>>,
    /// The last record that was read of each partition after it.
    pub last_reads: Vec<Option<LastRead>>,
    /// The ranges of undecided positions after it, each by its ends, if it is of the event store.
    pub undecided: Option<Vec<i64>>,
    /// The position before its first event.
    pub after: i64,
    /// The segment to store it in.
    pub segment: usize,
    /// Whether sessions are to be notified.
    pub notifies: bool,
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// It is stored. The last position.
    UpTo(i64),
    /// The subscription was dropped, or has moved: nothing was stored.
    Outdated,
    /// A session is changing the subscription: nothing was stored yet.
    Busy,
}

static GENERATION: Statement = Statement::new(
    c"SELECT s.generation FROM inbox.subscription AS s WHERE s.id OPERATOR(pg_catalog.=) $1 FOR SHARE SKIP LOCKED",
    &[pg_sys::INT4OID],
);

static PROGRESS: Statement = Statement::new(
    c"INSERT INTO inbox.progress (source_id, batch, generation, next_offsets, last_position, leader_epochs, epoch_ends, \
                               undecided) \
      VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    &[
        pg_sys::INT4OID,
        pg_sys::INT8OID,
        pg_sys::INT8OID,
        pg_sys::INT8ARRAYOID,
        pg_sys::INT8OID,
        pg_sys::INT4ARRAYOID,
        pg_sys::INT8ARRAYOID,
        pg_sys::INT8ARRAYOID,
    ],
);

static NOTIFY: Statement = Statement::new(
    c"SELECT pg_catalog.pg_notify(inbox.channel($1), pg_catalog.json_build_object( \
          'first_position', $2, 'last_position', $3, 'count', $4)::pg_catalog.text)",
    &[pg_sys::TEXTOID, pg_sys::INT8OID, pg_sys::INT8OID, pg_sys::INT8OID],
);

const PARAMETERS: &[pg_sys::Oid] = &[
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
            Ok(text) => Statement::new(text, PARAMETERS),
            Err(_) => unreachable!(),
        }
    };
}

/// Stores events, by segment.
static EVENTS: [Statement; retention::SEGMENTS] = [
    into_segment!("log_0"),
    into_segment!("log_1"),
    into_segment!("log_2"),
    into_segment!("log_3"),
    into_segment!("log_4"),
    into_segment!("log_5"),
    into_segment!("log_6"),
    into_segment!("log_7"),
];

static EXISTS: Statement = Statement::new(
    c"SELECT FROM inbox.subscription AS s WHERE s.id OPERATOR(pg_catalog.=) $1",
    &[pg_sys::INT4OID],
);

/// Why nothing can be stored for this generation of a subscription, if so. Otherwise no seek can change it until the end of
/// the transaction. A session that is changing it is not waited for: other subscriptions would wait, too. As the owner of the
/// tables.
#[must_use]
pub fn obstacle(source: i32, generation: i64) -> Option<Stored> {
    let rows = GENERATION.execute(&[source.into_datum()], Access::Write, 1);
    match rows.iter().next().and_then(|row| row.get::<i64>(1)) {
        Some(present) => (present != generation).then_some(Stored::Outdated),
        None if EXISTS.execute(&[source.into_datum()], Access::Read, 1).is_empty() => Some(Stored::Outdated),
        None => Some(Stored::Busy),
    }
}

/// Inserts how far a subscription has been read. As the owner of the tables.
pub fn insert_progress(
    definition: &Definition,
    batch: i64,
    next_offsets: &[Option<i64>],
    last_reads: &[Option<LastRead>],
    undecided: Option<&[i64]>,
    last_position: i64,
) {
    let leader_epochs: Vec<Option<i32>> =
        last_reads.iter().map(|last| last.map(|last| last.leader_epoch)).collect();
    let epoch_ends: Vec<Option<i64>> = last_reads.iter().map(|last| last.map(|last| last.end)).collect();
    let arguments = [
        definition.id.into_datum(),
        batch.into_datum(),
        definition.generation.into_datum(),
        next_offsets.to_vec().into_datum(),
        last_position.into_datum(),
        leader_epochs.into_datum(),
        epoch_ends.into_datum(),
        undecided.map(<[i64]>::to_vec).into_datum(),
    ];
    PROGRESS.execute(&arguments, Access::Write, 0);
}

impl Batch<'_> {
    /// Stores only the offsets: see `mistakes`.
    pub fn store_offsets(&self) {
        let last = self.after + i64::try_from(self.records.iter().count()).unwrap_or(i64::MAX);
        as_owner(|| self.insert_progress(last));
    }

    /// Stores it.
    pub fn store(&self) -> Stored {
        as_owner(|| {
            if let Some(obstacle) = obstacle(self.definition.id, self.definition.generation) {
                return obstacle;
            }
            self.insert_all()
        })
    }

    /// Stores it, if there is no obstacle, as the owner of the tables.
    pub fn insert_all(&self) -> Stored {
        let mut records: Vec<RecordRef<'_>> = self.records.iter().collect();
        if self.definition.drops_duplicates {
            records = duplicates::without(self.definition.id, records);
        }
        let count = i64::try_from(records.len()).unwrap_or(i64::MAX);
        let last = self.after + count;
        if count > 0 {
            self.insert_events(&records);
        }
        failpoints::reach(Point::InStore);
        if !mistakes::stores_offsets_first() {
            self.insert_progress(last);
        }
        if self.notifies && count > 0 {
            let name = self.definition.name.as_str();
            let first = self.after + 1;
            NOTIFY.execute(
                &[name.into_datum(), first.into_datum(), last.into_datum(), count.into_datum()],
                Access::Write,
                0,
            );
        }
        Stored::UpTo(last)
    }

    fn insert_progress(&self, last: i64) {
        let batch = self.definition.batch + 1;
        let undecided = self.undecided.as_deref();
        insert_progress(self.definition, batch, &self.next_offsets, &self.last_reads, undecided, last);
    }

    fn insert_events(&self, records: &[RecordRef<'_>]) {
        if let Some(target) = Target::open(LOG[self.segment].existing(), &LOG_COLUMNS, KEYS) {
            self.append(&target, records);
        } else {
            self.insert(records);
        }
    }

    /// Inserts the events without the executor, those of a lane together, as its index has them.
    fn append(&self, target: &Target, records: &[RecordRef<'_>]) {
        let lane = |record: &RecordRef<'_>| {
            self.definition.ordering.lane(record.key, record.partition, record.offset)
        };
        let lanes = records.iter().map(lane);
        let mut sorted: Vec<(u16, usize)> = lanes.zip(0..).collect();
        sorted.sort_unstable();
        target.insert(sorted.len(), |row, values, nulls| {
            let (lane, place) = sorted[row];
            let record = &records[place];
            let position = self.after + 1 + i64::try_from(place).unwrap_or(0);
            let headers = Some(record.headers).filter(|headers| !headers.is_empty());
            let time = record.timestamp_ms.and_then(|millis| millis.checked_mul(1000));
            let row = [
                self.definition.id.into_datum(),
                (lane as i16).into_datum(),
                position.into_datum(),
                record.partition.into_datum(),
                record.offset.into_datum(),
                time.map(|micros| pg_sys::Datum::from(compat::pg_timestamp(micros))),
                record.key.into_datum(),
                record.value.into_datum(),
                headers.into_datum(),
            ];
            for (column, value) in row.into_iter().enumerate() {
                nulls[column] = value.is_none();
                values[column] = value.unwrap_or(pg_sys::Datum::from(0_usize));
            }
        });
    }

    /// Inserts the events in SQL, because somebody has changed the table.
    fn insert(&self, records: &[RecordRef<'_>]) {
        let lane = |record: &RecordRef<'_>| {
            self.definition.ordering.lane(record.key, record.partition, record.offset) as i16
        };
        let time = |record: &RecordRef<'_>| {
            let micros = record.timestamp_ms?.checked_mul(1000)?;
            TimestampWithTimeZone::try_from(compat::pg_timestamp(micros)).ok()
        };
        let records = || records.iter();
        let arguments = [
            self.definition.id.into_datum(),
            records().map(lane).collect::<Vec<i16>>().into_datum(),
            self.after.into_datum(),
            records().map(|record| record.partition).collect::<Vec<i32>>().into_datum(),
            records().map(|record| record.offset).collect::<Vec<i64>>().into_datum(),
            records().map(time).collect::<Vec<_>>().into_datum(),
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
