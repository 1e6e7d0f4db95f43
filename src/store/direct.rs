//! Owns the tables as an append reads and writes them without the executor, while they are as the extension has made them: what
//! an executor prepares for each statement takes several times as long as the work.
//!
//! An append holds the lock of its stream, and only who holds it writes events and commands of the stream. So what is read of
//! them is by what is committed at each row.
//!
//! Runs in: client backends, in a transaction that takes a snapshot for each statement.

use std::cell::Cell;

use pgrx::prelude::*;

use super::row::{EventRow, Stream};
use super::{COMMAND, EVENT, STREAM, writers};
use crate::pg::bulk_insert::{Column, has_columns};
use crate::pg::catalog::Member;
use crate::pg::index_scan::{Condition, Order, Scan};
use crate::pg::indexed::{self, WantedIndex};
use crate::pg::relation::{self, OpenRelation};
use crate::pg::watch::Watch;
use crate::pg::{compat, row_lock, trigger};

const STREAM_COLUMNS: [Column; 5] = [
    (c"id", pg_sys::INT8OID, false),
    (c"name", pg_sys::TEXTOID, false),
    (c"category", pg_sys::TEXTOID, false),
    (c"created_at", pg_sys::TIMESTAMPTZOID, false),
    (c"tombstoned_at", pg_sys::TIMESTAMPTZOID, true),
];

const EVENT_COLUMNS: [Column; 12] = [
    (c"position", pg_sys::INT8OID, false),
    (c"stream_id", pg_sys::INT8OID, false),
    (c"version", pg_sys::INT8OID, false),
    (c"category", pg_sys::TEXTOID, false),
    (c"recorded_at", pg_sys::TIMESTAMPTZOID, false),
    (c"event_id", pg_sys::UUIDOID, false),
    (c"is_id_given", pg_sys::BOOLOID, false),
    (c"type", pg_sys::TEXTOID, false),
    (c"data", pg_sys::JSONBOID, true),
    (c"metadata", pg_sys::JSONBOID, true),
    (c"causation_id", pg_sys::UUIDOID, true),
    (c"correlation_id", pg_sys::UUIDOID, true),
];

const COMMAND_COLUMNS: [Column; 4] = [
    (c"stream_id", pg_sys::INT8OID, false),
    (c"command_id", pg_sys::TEXTOID, false),
    (c"version", pg_sys::INT8OID, false),
    (c"handled_at", pg_sys::TIMESTAMPTZOID, false),
];

const BY_NAME: WantedIndex = WantedIndex { keys: &[2], is_unique: true, covers: None };
const BY_COMMAND: WantedIndex = WantedIndex { keys: &[1, 2], is_unique: true, covers: None };

/// The indexes of events.
const EVENT_INDEXES: [WantedIndex; 4] = [
    WantedIndex { keys: &[2, 3], is_unique: true, covers: None },
    WantedIndex { keys: &[1], is_unique: true, covers: None },
    WantedIndex { keys: &[4, 1], is_unique: false, covers: None },
    WantedIndex { keys: &[2, 6], is_unique: true, covers: Some(7) },
];
/// Their places: that of stream and version, and the last, that of stream and id, which covers only ids that were given.
const BY_VERSION: usize = 0;
const BY_GIVEN_ID: usize = 3;
/// Where [`EventRow`] says whether the id was given.
const IS_ID_GIVEN: usize = 5;

/// How many streams a session remembers.
const SEEN_STREAMS: usize = 64;

/// What is found of a table: its indexes, and the sequence of its first column.
#[derive(Debug, Clone, Copy)]
struct Layout {
    indexes: [pg_sys::Oid; EVENT_INDEXES.len()],
    sequence: pg_sys::Oid,
}

/// A table that a process examines again after each change. `layout` is `None` if the table must be reached in SQL.
#[derive(Clone, Copy)]
struct Known {
    table: pg_sys::Oid,
    changes: u64,
    layout: Option<Layout>,
}

/// Watches the streams, the events, which have a trigger, and the commands.
pub static WATCHES: [Watch; 3] =
    [Watch::over_table(), Watch::over_table().and_functions(), Watch::over_table()];

thread_local! {
    static KNOWN: [Cell<Option<Known>>; 3] = const { [const { Cell::new(None) }; 3] };
    /// Streams, and versions that this session has seen of them, maybe in a transaction that was rolled back.
    static SEEN: [Cell<(i64, i64)>; SEEN_STREAMS] = const { [const { Cell::new((0, 0)) }; SEEN_STREAMS] };
}

/// What is known of a table that was not changed since.
fn known(at: usize) -> Option<Known> {
    KNOWN.with(|known| known[at].get()).filter(|known| known.changes == WATCHES[at].changes())
}

/// The table of the streams. An ERROR if it does not exist.
#[must_use]
pub fn streams() -> pg_sys::Oid {
    known(0).map_or_else(|| STREAM.existing(), |known| known.table)
}

/// Opens one of the tables. `None` if it must be reached in SQL.
fn open(
    at: usize,
    member: Member,
    lock: pg_sys::LOCKMODE,
    find: fn(&OpenRelation) -> Option<Layout>,
) -> Option<(OpenRelation, Layout)> {
    let watch = &WATCHES[at];
    let before = known(at);
    let id = before.map_or_else(|| member.existing(), |known| known.table);
    watch.set_table(id);
    // Whoever takes a lock learns of all changes that were made before it was granted.
    let table = OpenRelation::open(id, lock);
    let changes = watch.changes();
    let layout = match before {
        Some(known) if known.changes == changes => known.layout,
        _ => {
            let layout = find(&table);
            KNOWN.with(|known| known[at].set(Some(Known { table: id, changes, layout })));
            layout
        }
    };
    Some((table, layout?))
}

fn layout_of(indexes: &[pg_sys::Oid]) -> Layout {
    let mut all = [pg_sys::InvalidOid; EVENT_INDEXES.len()];
    all[..indexes.len()].copy_from_slice(indexes);
    Layout { indexes: all, sequence: pg_sys::InvalidOid }
}

fn find_streams(table: &OpenRelation) -> Option<Layout> {
    let is_ours = has_columns(table, &STREAM_COLUMNS);
    let by_name = is_ours.then(|| indexed::index_of(table, &STREAM_COLUMNS, BY_NAME)).flatten()?;
    Some(layout_of(&[by_name]))
}

fn find_events(table: &OpenRelation) -> Option<Layout> {
    if !has_columns(table, &EVENT_COLUMNS)
        || !trigger::is_only_on_insertion(table, writers::event_store_before_insert)
    {
        return None;
    }
    // SAFETY: the relation is open, and its first column is the position.
    let sequence = unsafe { compat::identity_sequence(table.raw(), 1) };
    let indexes = indexed::all_indexes(table, &EVENT_COLUMNS, EVENT_INDEXES)?;
    (sequence != pg_sys::InvalidOid).then_some(Layout { indexes, sequence })
}

fn find_commands(table: &OpenRelation) -> Option<Layout> {
    let is_ours = has_columns(table, &COMMAND_COLUMNS) && !trigger::has_any_on_insertion(table);
    let indexes = is_ours.then(|| indexed::all_indexes(table, &COMMAND_COLUMNS, [BY_COMMAND])).flatten()?;
    Some(layout_of(&indexes))
}

/// The rows that meet the conditions on the index, as they are committed.
fn scan<'a, const N: usize>(
    table: &'a OpenRelation,
    index: &'a OpenRelation,
    conditions: [Condition; N],
) -> Scan<'a, N> {
    // SAFETY: the index is one of the table's; the snapshot lives as long as the process, and depends on nothing.
    let mut scan =
        unsafe { Scan::prepare(table, index, &raw mut pg_sys::SnapshotSelfData, Order::Descending) };
    scan.restart(conditions);
    scan
}

/// The third column of a row, which is a version.
fn version<const N: usize>(mut scan: Scan<'_, N>) -> Option<i64> {
    let [.., version] = scan.next_row::<3>()?;
    version.map(|version| version.value() as i64)
}

/// A version that the session has seen of a stream.
fn seen(stream: i64) -> Option<i64> {
    let (of, version) = SEEN.with(|seen| seen[place(stream)].get());
    (of == stream).then_some(version)
}

/// Remembers a version of a stream.
fn see(stream: i64, version: i64) {
    SEEN.with(|seen| seen[place(stream)].set((stream, version)));
}

fn place(stream: i64) -> usize {
    stream.cast_unsigned() as usize % SEEN_STREAMS
}

/// The streams, open for locking them.
pub struct Streams {
    table: OpenRelation,
    by_name: OpenRelation,
}

impl Streams {
    /// Opens them.
    #[must_use]
    pub fn open() -> Option<Self> {
        let (table, layout) = open(0, STREAM, relation::LOCK_ROWS, find_streams)?;
        Some(Self { table, by_name: OpenRelation::open(layout.indexes[0], relation::READ) })
    }

    /// Locks a stream, and waits for who has locked it. An error if somebody has changed it meanwhile. `None` if there is none of
    /// this name, or another one may have taken its place just now: who creates a stream learns of that.
    pub fn lock(&self, name: &str) -> Result<Option<Stream>, Changed> {
        let name = Condition::text(1, name.into_datum().unwrap_or(pg_sys::Datum::from(0_usize)));
        let mut found = scan(&self.table, &self.by_name, [name]);
        let Some([Some(id), _, _, _, tombstoned_at]) = found.next_row::<5>() else { return Ok(None) };
        let stream = Stream { id: id.value() as i64, is_tombstoned: tombstoned_at.is_some() };
        let place = found.place();
        drop(found);
        if row_lock::lock(&self.table, place) { Ok(Some(stream)) } else { Err(Changed) }
    }
}

/// The row of a stream is no longer as it was found.
#[derive(Debug, Clone, Copy)]
pub struct Changed;

/// The events, open for reading and inserting.
pub struct Events {
    table: OpenRelation,
    /// The indexes; without the last, if no id is given.
    indexes: Vec<OpenRelation>,
    sequence: pg_sys::Oid,
}

impl Events {
    /// Opens them.
    #[must_use]
    pub fn open(has_given_ids: bool) -> Option<Self> {
        let (table, layout) = open(1, EVENT, relation::WRITE, find_events)?;
        let needed = if has_given_ids { EVENT_INDEXES.len() } else { BY_GIVEN_ID };
        let indexes = layout.indexes[..needed].iter();
        let indexes = indexes.map(|index| OpenRelation::open(*index, relation::WRITE)).collect();
        Some(Self { table, indexes, sequence: layout.sequence })
    }

    /// The version of a locked stream. A scan of the index reads all entries of a page that meet its conditions, of which there
    /// are hundreds in a long stream: so it begins with a version that may be near the last, if there is such an event.
    #[must_use]
    pub fn last_version(&self, stream: i64, expected: Option<i64>) -> i64 {
        let index = &self.indexes[BY_VERSION];
        let hint = expected.or_else(|| seen(stream));
        let near = hint.and_then(|hint| {
            let from = Condition::above(2, hint.saturating_sub(1));
            version(scan(&self.table, index, [Condition::bigint(1, stream), from]))
        });
        let any = || version(scan(&self.table, index, [Condition::bigint(1, stream)]));
        near.or_else(any).unwrap_or(0)
    }

    /// The version at which a locked stream has an event with this id, which its writer chose.
    #[must_use]
    pub fn version(&self, stream: i64, id: pgrx::Uuid) -> Option<i64> {
        let index = self.indexes.get(BY_GIVEN_ID)?;
        version(scan(
            &self.table,
            index,
            [Condition::bigint(1, stream), Condition::uuid(2, id.into_datum()?)],
        ))
    }

    /// The sequence of positions.
    #[must_use]
    pub fn sequence(&self) -> pg_sys::Oid {
        self.sequence
    }

    /// Stores an event, and returns its position.
    #[must_use]
    pub fn insert(&self, row: EventRow) -> i64 {
        pgrx::check_for_interrupts!();
        let position = compat::next_value(self.sequence);
        let is_id_given = row[IS_ID_GIVEN].is_some_and(|given| given.value() != 0);
        let values: [_; EVENT_COLUMNS.len()] = std::array::from_fn(|column| match column {
            0 => position.into_datum(),
            column => row[column - 1],
        });
        let indexes = self.indexes.iter().enumerate().filter(|(at, _)| is_id_given || *at != BY_GIVEN_ID);
        indexed::insert(&self.table, indexes.map(|(_, index)| index), values);
        if let [Some(stream), Some(version), ..] = row {
            see(stream.value() as i64, version.value() as i64);
        }
        position
    }
}

/// The commands, open for reading and inserting.
pub struct Commands {
    table: OpenRelation,
    by_command: OpenRelation,
}

impl Commands {
    /// Opens them.
    #[must_use]
    pub fn open() -> Option<Self> {
        let (table, layout) = open(2, COMMAND, relation::WRITE, find_commands)?;
        Some(Self { table, by_command: OpenRelation::open(layout.indexes[0], relation::WRITE) })
    }

    /// The version at which a command has left a locked stream, if it was handled.
    #[must_use]
    pub fn version(&self, stream: i64, command: &str) -> Option<i64> {
        let conditions = [Condition::bigint(1, stream), Condition::text(2, command.into_datum()?)];
        version(scan(&self.table, &self.by_command, conditions))
    }

    /// Stores that a command was handled.
    pub fn insert(&self, stream: i64, command: &str, version: i64) {
        // SAFETY: in a transaction.
        let now = unsafe { pg_sys::GetCurrentTransactionStartTimestamp() };
        let row =
            [stream.into_datum(), command.into_datum(), version.into_datum(), Some(pg_sys::Datum::from(now))];
        indexed::insert(&self.table, [&self.by_command], row);
    }
}
