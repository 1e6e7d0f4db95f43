//! The rows of `outbox.events`, read and deleted where they lie.
//!
//! What `SELECT … WHERE id > $1 ORDER BY id LIMIT $2` and `DELETE … WHERE ctid = $1 AND event_id = $2` would do, by the
//! same access methods, but row by row out of the buffers, without an executor that copies them: the
//! relay's main thread has hardly anything else to do. See `docs/performance.md` for what it saves.

use std::borrow::Cow;
use std::cell::RefCell;
use std::ffi::{CStr, c_int};

use event_outbox_policy::delivery::error_class::ErrorClass;
use event_outbox_policy::event::draft::Event;
use event_outbox_policy::event::size::{self, Size};
use event_outbox_policy::event::topic::MAX_TOPIC_BYTES;
use pgrx::prelude::*;

use crate::pg::user_error::Complaint;
use crate::pg::{catalog, compat, varlena};

/// Which row is meant, though others may have come to its ctid or even its id since it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowIdentity {
    /// The event's position.
    pub id: i64,
    /// The event's own identity.
    pub event_id: [u8; 16],
    /// Where the row lay.
    pub place: RowPlace,
    /// What was in it, where it was taken apart: [`Event::fingerprint`].
    pub content: Option<u64>,
}

/// Where a row lay when it was read: block number and offset, as one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowPlace(u64);

impl RowPlace {
    fn of(tid: pg_sys::ItemPointerData) -> Self {
        let (block, offset) = pgrx::itemptr::item_pointer_get_both(tid);
        Self(u64::from(block) << 16 | u64::from(offset))
    }

    fn block(self) -> u32 {
        (self.0 >> 16) as u32
    }

    /// The place as Postgres writes it.
    #[must_use]
    pub fn tid(self) -> pg_sys::ItemPointerData {
        let mut tid = pg_sys::ItemPointerData::default();
        pgrx::itemptr::item_pointer_set_all(&mut tid, self.block(), self.0 as u16);
        tid
    }
}

/// The table `outbox.events`, open. Its lock is kept to the end of the transaction.
pub struct Events {
    relation: pg_sys::Relation,
    slot: *mut pg_sys::TupleTableSlot,
    columns: Columns,
    /// Values of the row in the slot that were stored compressed or elsewhere.
    unpacked: RefCell<Vec<*mut pg_sys::varlena>>,
}

/// The columns that are read.
#[derive(Clone, Copy)]
enum Column {
    Id,
    EventId,
    EmittedAt,
    Topic,
    Partition,
    Key,
    Payload,
    Headers,
    EventType,
    ContentType,
    NextAttemptAt,
    ErrorClass,
}

/// Their names and types, in the same order. What a value is taken for must be what is stored: the table's owner can change
/// the type of a column.
const COLUMNS: [(&CStr, pg_sys::Oid); 12] = [
    (c"id", pg_sys::INT8OID),
    (c"event_id", pg_sys::UUIDOID),
    (c"emitted_at", pg_sys::TIMESTAMPTZOID),
    (c"topic", pg_sys::TEXTOID),
    (c"partition", pg_sys::INT4OID),
    (c"key", pg_sys::BYTEAOID),
    (c"payload", pg_sys::BYTEAOID),
    (c"headers", pg_sys::JSONOID),
    (c"event_type", pg_sys::TEXTOID),
    (c"content_type", pg_sys::TEXTOID),
    (c"next_attempt_at", pg_sys::TIMESTAMPTZOID),
    (c"error_class", pg_sys::TEXTOID),
];

/// Where they are in a row, counted from 0: an upgrade can have appended what a new installation has elsewhere.
struct Columns {
    positions: [usize; COLUMNS.len()],
    /// How much of a row is to be taken apart.
    width: c_int,
}

impl Events {
    /// Opens the table to read it, in a transaction.
    #[must_use]
    pub fn open_to_read(table: pg_sys::Oid) -> Self {
        Self::open(table, pg_sys::AccessShareLock)
    }

    /// Opens the table to delete from it, in a transaction.
    #[must_use]
    pub fn open_to_delete(table: pg_sys::Oid) -> Self {
        Self::open(table, pg_sys::RowExclusiveLock)
    }

    fn open(table: pg_sys::Oid, lock: u32) -> Self {
        // SAFETY: in a transaction, whose end releases what an ERROR leaves open.
        unsafe {
            let relation = pg_sys::table_open(table, lock as pg_sys::LOCKMODE);
            let slot = pg_sys::table_slot_create(relation, std::ptr::null_mut());
            Self { relation, slot, columns: Columns::of(relation), unpacked: RefCell::default() }
        }
    }

    /// Reads up to `limit` rows behind `after`, by the active snapshot, in the order of their ids, until
    /// `visit` says stop. Gives how many were visited.
    pub fn read_new(&self, after: i64, limit: usize, mut visit: impl FnMut(&EventRow<'_>) -> bool) -> usize {
        let scan = IdScan::begin(self.relation, after);
        let mut visited = 0;
        while visited < limit && scan.next(self.slot, self.columns.width) {
            visited += 1;
            let goes_on = visit(&EventRow { events: self });
            self.free_unpacked();
            if !goes_on {
                break;
            }
        }
        visited
    }

    /// When nobody looks at the row any more.
    fn free_unpacked(&self) {
        // SAFETY: each is a copy of ours, freed once.
        self.unpacked.borrow_mut().drain(..).for_each(|value| unsafe { pg_sys::pfree(value.cast()) });
    }

    /// Looks, by the active snapshot, for rows that are no longer where they were read. Gives those that hold what they held,
    /// with the place where they are now, and the ids of those that hold something else. The others are gone.
    #[must_use]
    pub fn find_moved(&self, rows: &[RowIdentity]) -> (Vec<RowIdentity>, Vec<i64>) {
        let (mut same, mut changed) = (Vec::new(), Vec::new());
        for row in rows {
            self.read_new(row.id.saturating_sub(1), 1, |found| {
                if found.id() == row.id && found.event_id() == row.event_id {
                    let place = found.identity(None).place;
                    if place == row.place || row.content.is_none() || found.content() == row.content {
                        same.push(RowIdentity { place, ..*row });
                    } else {
                        changed.push(row.id);
                    }
                }
                false
            });
        }
        (same, changed)
    }

    /// Whether rows can be deleted where they lie: nobody has a trigger or rule that wants to know of it.
    #[must_use]
    pub fn can_delete_in_place(&self) -> bool {
        // SAFETY: the relation is open.
        unsafe {
            let relation = &*self.relation;
            let heeded = relation.trigdesc.as_ref().is_some_and(|triggers| {
                triggers.trig_delete_before_row
                    || triggers.trig_delete_after_row
                    || triggers.trig_delete_before_statement
                    || triggers.trig_delete_after_statement
                    || triggers.trig_delete_old_table
            });
            !heeded && relation.rd_rules.is_null()
        }
    }

    /// Deletes these rows where they lie, by the active snapshot. Gives those that it has not found there:
    /// they have been changed, moved or deleted since they were read. Waits for whoever has locked a row, up to
    /// `lock_timeout`, and raises an ERROR then.
    #[must_use]
    pub fn delete_in_place(&self, rows: &[RowIdentity]) -> Vec<RowIdentity> {
        // SAFETY: in a transaction with an active snapshot; the relation is open.
        let (command, snapshot, blocks) = unsafe {
            let blocks =
                pg_sys::RelationGetNumberOfBlocksInFork(self.relation, pg_sys::ForkNumber::MAIN_FORKNUM);
            (pg_sys::GetCurrentCommandId(true), pg_sys::GetActiveSnapshot(), blocks)
        };
        // By their place, so that each page is gone to once.
        let mut rows = rows.to_vec();
        rows.sort_unstable_by_key(|row| row.place);
        // TRUNCATE and VACUUM FULL leave a shorter table; and nobody shortens it while it is locked.
        let there = rows.partition_point(|row| row.place.block() < blocks);
        let mut not_found = rows.split_off(there);
        let mut left = rows.as_slice();
        while let Some(missing) = self.delete_until_missing(left, command, snapshot) {
            not_found.push(left[missing]);
            left = &left[missing + 1..];
        }
        // SAFETY: what follows in this transaction sees the rows deleted.
        unsafe { pg_sys::CommandCounterIncrement() };
        not_found
    }

    /// Deletes these rows up to the first that is not found, and says which that is.
    fn delete_until_missing(
        &self,
        rows: &[RowIdentity],
        command: pg_sys::CommandId,
        snapshot: pg_sys::Snapshot,
    ) -> Option<usize> {
        let event_id = self.columns.at(Column::EventId);
        let width = c_int::try_from(event_id + 1).unwrap_or(c_int::MAX);
        // SAFETY: relation, slot and snapshot are alive. The row that the snapshot sees at this place cannot give it to
        // another before the snapshot is gone, so what is deleted is what was compared. An ERROR leaves nothing behind.
        unsafe {
            compat::guarded(|| {
                rows.iter().position(|row| {
                    let mut tid = row.place.tid();
                    if !compat::fetch_row_version(self.relation, &mut tid, snapshot, self.slot) {
                        return true;
                    }
                    compat::raw::slot_getsomeattrs_int(self.slot, width);
                    let found = (*(*self.slot).tts_values.add(event_id)).cast_mut_ptr::<[u8; 16]>();
                    *found != row.event_id || !compat::delete_row(self.relation, &mut tid, command, snapshot)
                })
            })
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        // When an ERROR unwinds, the end of the transaction closes it.
        if !std::thread::panicking() {
            // SAFETY: pairs with `open`; the lock is kept.
            unsafe {
                pg_sys::ExecDropSingleTupleTableSlot(self.slot);
                pg_sys::table_close(self.relation, pg_sys::NoLock as pg_sys::LOCKMODE);
            }
        }
    }
}

impl Columns {
    fn of(relation: pg_sys::Relation) -> Self {
        // SAFETY: the relation is open.
        let columns = unsafe { catalog::columns(relation) };
        let positions = COLUMNS.map(|(name, of_type)| {
            let is_meant = |(called, column): (&CStr, &pg_sys::FormData_pg_attribute)| {
                !column.attisdropped && called == name && column.atttypid == of_type
            };
            columns.clone().position(is_meant).unwrap_or_else(|| unreadable(name))
        });
        let last = positions.into_iter().max().unwrap_or(0);
        Self { positions, width: c_int::try_from(last + 1).unwrap_or(c_int::MAX) }
    }

    fn at(&self, column: Column) -> usize {
        self.positions[column as usize]
    }
}

fn unreadable(column: &CStr) -> ! {
    Complaint {
        code: PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH,
        message: format!(
            "outbox.events has no column \"{}\" of the type that the extension gave it",
            column.to_string_lossy()
        ),
        detail: "Somebody has changed or dropped it. Events wait in the outbox.".into(),
        hint: "Change it back, or drop and create the extension.".into(),
    }
    .raise()
}

/// A scan of the primary key, from an id on.
struct IdScan {
    index: pg_sys::Relation,
    scan: pg_sys::IndexScanDesc,
}

/// In ascending order.
const FORWARD: pg_sys::ScanDirection::Type = pg_sys::ScanDirection::ForwardScanDirection;

impl IdScan {
    fn begin(relation: pg_sys::Relation, after: i64) -> Self {
        const FIRST_COLUMN: pg_sys::AttrNumber = 1;
        // SAFETY: in a transaction with an active snapshot; the relation is open. The index is one of a bigint, which
        // the function compares; the key is copied.
        unsafe {
            let primary_key = compat::primary_key_index(relation);
            if primary_key == pg_sys::InvalidOid {
                error!("outbox.events has no primary key");
            }
            let index = pg_sys::index_open(primary_key, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
            let scan = compat::begin_index_scan(relation, index, pg_sys::GetActiveSnapshot(), 1);
            let mut key = pg_sys::ScanKeyData::default();
            pg_sys::ScanKeyInit(
                &mut key,
                FIRST_COLUMN,
                pg_sys::BTGreaterStrategyNumber as pg_sys::StrategyNumber,
                pg_sys::F_INT8GT.into(),
                pg_sys::Datum::from(after),
            );
            pg_sys::index_rescan(scan, &mut key, 1, std::ptr::null_mut(), 0);
            Self { index, scan }
        }
    }

    /// Puts the next row into the slot, its first columns ready to be read.
    fn next(&self, slot: *mut pg_sys::TupleTableSlot, columns: c_int) -> bool {
        // SAFETY: the scan is open, the slot one of its table.
        unsafe {
            compat::guarded(|| {
                let found = compat::raw::index_getnext_slot(self.scan, FORWARD, slot);
                if found {
                    compat::raw::slot_getsomeattrs_int(slot, columns);
                }
                found
            })
        }
    }
}

impl Drop for IdScan {
    fn drop(&mut self) {
        // When an ERROR unwinds, the end of the transaction closes it.
        if !std::thread::panicking() {
            // SAFETY: pairs with `begin`.
            unsafe {
                pg_sys::index_endscan(self.scan);
                pg_sys::index_close(self.index, pg_sys::NoLock as pg_sys::LOCKMODE);
            }
        }
    }
}

/// A row as found, read as far as it is looked at: a large payload is fetched only for an event that is
/// really taken.
pub struct EventRow<'a> {
    events: &'a Events,
}

impl EventRow<'_> {
    fn datum(&self, column: Column) -> Option<pg_sys::Datum> {
        // SAFETY: the slot holds a row whose columns up to the last of `COLUMNS` have been taken apart.
        unsafe {
            let (slot, column) = (&*self.events.slot, self.events.columns.at(column));
            (!*slot.tts_isnull.add(column)).then(|| *slot.tts_values.add(column))
        }
    }

    /// The bytes of a value of variable length; unpacked only if they are stored compressed or elsewhere.
    fn bytes(&self, column: Column) -> Option<Cow<'_, [u8]>> {
        let stored = self.datum(column)?.cast_mut_ptr::<pg_sys::varlena>();
        // SAFETY: a column of type text, bytea or json, which lives as long as the slot holds the row; what had to be
        // unpacked is a copy of ours, which is freed when the next row is read.
        unsafe {
            let mut value = stored;
            if varlena::is_packed(stored) {
                value = pg_sys::pg_detoast_datum_packed(stored);
                self.events.unpacked.borrow_mut().push(value);
            }
            Some(Cow::Borrowed(pgrx::varlena::varlena_to_byte_slice(value)))
        }
    }

    /// How many bytes a value of variable length has, which is not unpacked for it.
    fn length(&self, column: Column) -> usize {
        // SAFETY: a column of such a type, which lives as long as the slot holds the row.
        self.datum(column).map_or(0, |value| unsafe { varlena::length(value) })
    }

    /// What the event weighs, as far as it is known without reading its headers.
    #[must_use]
    pub fn size(&self) -> Size {
        Size {
            payload: self.length(Column::Payload),
            key: self.length(Column::Key),
            headers: self.length(Column::Headers),
            event_type: self.length(Column::EventType),
            content_type: self.length(Column::ContentType),
        }
    }

    /// Text; what is not UTF-8, in a database of another encoding, is marked as such.
    fn text(&self, column: Column) -> Option<Cow<'_, str>> {
        Some(match self.bytes(column)? {
            // In two steps: to look whether it is UTF-8 is far cheaper than to look for what is not.
            Cow::Borrowed(bytes) => {
                std::str::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Cow::Borrowed)
            }
            Cow::Owned(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
        })
    }

    /// The event's position.
    #[must_use]
    pub fn id(&self) -> i64 {
        self.datum(Column::Id).map_or(0, |datum| datum.value() as i64)
    }

    /// Not to be tried before this time, in microseconds since 1970.
    #[must_use]
    pub fn next_attempt_at(&self) -> Option<i64> {
        let datum = self.datum(Column::NextAttemptAt)?;
        Some(compat::unix_micros(datum.value() as i64))
    }

    /// The event's own identity.
    #[must_use]
    pub fn event_id(&self) -> [u8; 16] {
        let datum = self.datum(Column::EventId);
        // SAFETY: a uuid is a pointer to its 16 bytes, in the row.
        datum.map_or([0; 16], |datum| unsafe { *datum.cast_mut_ptr::<[u8; 16]>() })
    }

    /// Which row this is, and what is in it.
    #[must_use]
    pub fn identity(&self, content: Option<u64>) -> RowIdentity {
        // SAFETY: the slot holds a row.
        let place = RowPlace::of(unsafe { (*self.events.slot).tts_tid });
        RowIdentity { id: self.id(), event_id: self.event_id(), place, content }
    }

    /// The transaction that wrote it, as [`compat::writer_of`] says.
    #[must_use]
    pub fn writer(&self) -> Option<pg_sys::TransactionId> {
        // SAFETY: the slot holds a row.
        unsafe { compat::writer_of(self.events.slot) }
    }

    /// The bytes of the topic's name.
    #[must_use]
    pub fn topic_bytes(&self) -> usize {
        self.length(Column::Topic)
    }

    /// The topic; empty for a name that is longer than that of any topic.
    #[must_use]
    pub fn topic(&self) -> Cow<'_, str> {
        if self.topic_bytes() > MAX_TOPIC_BYTES {
            return Cow::default();
        }
        self.text(Column::Topic).unwrap_or_default()
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> Option<Cow<'_, [u8]>> {
        self.bytes(Column::Key)
    }

    /// Whether it was refused last for its time.
    #[must_use]
    pub fn is_untimely(&self) -> bool {
        self.bytes(Column::ErrorClass)
            .is_some_and(|class| *class == *ErrorClass::InvalidTimestamp.as_str().as_bytes())
    }

    /// When it was emitted, in microseconds since 1970.
    #[must_use]
    pub fn emitted_at(&self) -> i64 {
        self.datum(Column::EmittedAt).map_or(0, |datum| compat::unix_micros(datum.value() as i64))
    }

    /// What is in it, if that could be published.
    #[must_use]
    pub fn content(&self) -> Option<u64> {
        let fits = size::unsendable(self.topic_bytes(), self.size()).is_none();
        fits.then(|| self.event(&self.topic()).fingerprint())
    }

    /// The whole event, but for its topic.
    #[must_use]
    pub fn event<'a>(&'a self, topic: &'a str) -> Event<'a> {
        Event {
            id: self.id(),
            event_id: self.event_id(),
            emitted_at: self.emitted_at(),
            record_time: self.emitted_at(),
            topic,
            partition: self.datum(Column::Partition).map(|datum| datum.value() as i32),
            key: self.bytes(Column::Key),
            payload: self.bytes(Column::Payload),
            headers: self.text(Column::Headers),
            event_type: self.text(Column::EventType),
            content_type: self.text(Column::ContentType),
        }
    }
}
