//! Owns tables that are read and written by one index, without the executor.
//!
//! It is for tables of the extension's own. [`Layout::find`] tells whether a table is as it was created: without triggers,
//! rules, checks, policies or further columns. What an executor prepares for each statement takes longer than to find one row.
//!
//! Runs in: any process, in a transaction.

use std::ffi::c_int;

use pgrx::prelude::*;

use super::bulk_insert::{Column, has_only};
use super::compat;
use super::relation::{self, OpenRelation};

/// What is expected of a table: its columns, and the columns of the index by which it is read, each an integer.
pub struct Wanted {
    /// The columns.
    pub columns: &'static [Column],
    /// The numbers of the index's columns.
    pub keys: &'static [pg_sys::AttrNumber],
    /// Whether the index must be unique, and the only one: then rows can be inserted.
    pub is_only: bool,
}

/// A table that is as it was created, and its index.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    index: pg_sys::Oid,
}

impl Layout {
    /// Examines an open table. `None` if it is not as wanted.
    #[must_use]
    pub fn find(table: &OpenRelation, wanted: &Wanted) -> Option<Self> {
        if !has_only(table, wanted.columns) {
            return None;
        }
        // SAFETY: the relation is open.
        let indexes =
            unsafe { pgrx::PgList::<pg_sys::Oid>::from_pg(pg_sys::RelationGetIndexList(table.raw())) };
        if wanted.is_only && indexes.len() != 1 {
            return None;
        }
        let mut all = indexes.iter_oid();
        all.find(|index| is_plain(&OpenRelation::open(*index, relation::READ), wanted))
            .map(|index| Self { index })
    }

    /// Opens the index of the table, too.
    #[must_use]
    pub fn open(self, table: OpenRelation, lock: pg_sys::LOCKMODE) -> Indexed {
        Indexed { index: OpenRelation::open(self.index, lock), table }
    }
}

/// Whether an index is a b-tree on just the wanted columns, in ascending order.
fn is_plain(index: &OpenRelation, wanted: &Wanted) -> bool {
    let count = wanted.keys.len();
    // SAFETY: an open index has a description, with as many columns as it says, and lists of expressions or null; families and
    // options are arrays with an entry for each key column.
    unsafe {
        let described = &*index.data().rd_index;
        described.indisready
            && described.indisvalid
            && described.indislive
            && (!wanted.is_only || described.indisunique && described.indimmediate)
            && usize::try_from(described.indnatts).is_ok_and(|columns| columns == count)
            && described.indnkeyatts == described.indnatts
            && described.indkey.values.as_slice(count) == wanted.keys
            && index.class().relam == pg_sys::BTREE_AM_OID
            && std::slice::from_raw_parts(index.data().rd_opfamily, count)
                .iter()
                .all(|family| *family == pg_sys::INTEGER_BTREE_FAM_OID)
            && std::slice::from_raw_parts(index.data().rd_indoption, count).iter().all(|option| *option == 0)
            && pg_sys::RelationGetIndexExpressions(index.raw()).is_null()
            && pg_sys::RelationGetIndexPredicate(index.raw()).is_null()
    }
}

/// An open table that is as it was created, and its open index.
pub struct Indexed {
    table: OpenRelation,
    index: OpenRelation,
}

/// A condition on a column of the index, counted from 1.
pub struct Condition {
    column: pg_sys::AttrNumber,
    strategy: u32,
    function: u32,
    value: pg_sys::Datum,
}

impl Condition {
    /// An `integer` column has this value.
    #[must_use]
    pub fn integer(column: pg_sys::AttrNumber, value: i32) -> Self {
        let (strategy, function) = (pg_sys::BTEqualStrategyNumber, pg_sys::F_INT4EQ);
        Self { column, strategy, function, value: pg_sys::Datum::from(value) }
    }

    /// A `smallint` column has this value.
    #[must_use]
    pub fn smallint(column: pg_sys::AttrNumber, value: i16) -> Self {
        let (strategy, function) = (pg_sys::BTEqualStrategyNumber, pg_sys::F_INT2EQ);
        Self { column, strategy, function, value: pg_sys::Datum::from(value) }
    }

    /// A `bigint` column is above this value.
    #[must_use]
    pub fn above(column: pg_sys::AttrNumber, value: i64) -> Self {
        let (strategy, function) = (pg_sys::BTGreaterStrategyNumber, pg_sys::F_INT8GT);
        Self { column, strategy, function, value: pg_sys::Datum::from(value) }
    }

    /// A `bigint` column is not above this value.
    #[must_use]
    pub fn at_most(column: pg_sys::AttrNumber, value: i64) -> Self {
        let (strategy, function) = (pg_sys::BTLessEqualStrategyNumber, pg_sys::F_INT8LE);
        Self { column, strategy, function, value: pg_sys::Datum::from(value) }
    }
}

/// The order in which a scan returns rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// That of the index.
    Ascending,
    /// The opposite.
    Descending,
}

impl Indexed {
    /// The rows that the active snapshot sees and that meet the conditions.
    #[must_use]
    pub fn scan<const N: usize>(&self, conditions: [Condition; N], order: Order) -> Scan<'_, N> {
        let mut scan = self.scan_later(order);
        scan.restart(conditions);
        scan
    }

    /// A scan by the active snapshot that is to be started with conditions, maybe again and again.
    #[must_use]
    pub fn scan_later<const N: usize>(&self, order: Order) -> Scan<'_, N> {
        // SAFETY: in a transaction with an active snapshot.
        self.scan_by(unsafe { pg_sys::GetActiveSnapshot() }, order)
    }

    /// The same for rows that a lock of the caller's protects, or of which only a hint is wanted. In a SERIALIZABLE transaction
    /// the scan is by what is committed at each row, and does not count as a read: rows that have nothing to do with each other
    /// share a page of the index, so any two such transactions would be in each other's way.
    #[must_use]
    pub fn scan_protected<const N: usize>(&self, order: Order) -> Scan<'_, N> {
        // SAFETY: a plain global of this process.
        if unsafe { pg_sys::XactIsoLevel } < pg_sys::XACT_SERIALIZABLE as i32 {
            return self.scan_later(order);
        }
        self.scan_by(&raw mut pg_sys::SnapshotSelfData, order)
    }

    fn scan_by<const N: usize>(&self, snapshot: pg_sys::Snapshot, order: Order) -> Scan<'_, N> {
        // SAFETY: the snapshot is active, or lives as long as the process; both relations are open.
        unsafe {
            let scan = compat::begin_index_scan(self.table.raw(), self.index.raw(), snapshot, N as c_int);
            let slot = pg_sys::table_slot_create(self.table.raw(), std::ptr::null_mut());
            Scan { relations: self, scan, slot, order }
        }
    }

    /// Inserts a row, whose values have the types of the columns. An ERROR if the unique index has its keys already.
    pub fn insert<const N: usize>(&self, row: [Option<pg_sys::Datum>; N]) {
        let mut keys = [pg_sys::Datum::from(0_usize); pg_sys::INDEX_MAX_KEYS as usize];
        let mut nulls = [false; pg_sys::INDEX_MAX_KEYS as usize];
        // SAFETY: the relations are open and locked for writing. The slot is made for the table, and has its columns, which
        // the caller gives; the index covers columns of it.
        unsafe {
            let slot = pg_sys::table_slot_create(self.table.raw(), std::ptr::null_mut());
            debug_assert_eq!((*(*slot).tts_tupleDescriptor).natts as usize, N);
            for (column, value) in row.iter().enumerate() {
                *(*slot).tts_isnull.add(column) = value.is_none();
                *(*slot).tts_values.add(column) = value.unwrap_or(pg_sys::Datum::from(0_usize));
            }
            pg_sys::ExecStoreVirtualTuple(slot);
            let described = &*self.index.data().rd_index;
            let columns = described.indkey.values.as_slice(described.indnatts as usize);
            for (key, column) in columns.iter().enumerate() {
                let value = row[*column as usize - 1];
                (keys[key], nulls[key]) = (value.unwrap_or(keys[key]), value.is_none());
            }
            compat::guarded(|| compat::insert_row(self.table.raw(), slot, pg_sys::GetCurrentCommandId(true)));
            pg_sys::index_insert(
                self.index.raw(),
                keys.as_mut_ptr(),
                nulls.as_mut_ptr(),
                &raw mut (*slot).tts_tid,
                self.table.raw(),
                pg_sys::IndexUniqueCheck::UNIQUE_CHECK_YES,
                false,
                pg_sys::BuildIndexInfo(self.index.raw()),
            );
            pg_sys::ExecDropSingleTupleTableSlot(slot);
            // Later commands of this transaction see the row.
            pg_sys::CommandCounterIncrement();
        }
    }
}

/// A scan with this many conditions. When an ERROR unwinds, the end of the (sub)transaction ends it.
pub struct Scan<'a, const N: usize> {
    relations: &'a Indexed,
    scan: pg_sys::IndexScanDesc,
    slot: *mut pg_sys::TupleTableSlot,
    order: Order,
}

impl<const N: usize> Scan<'_, N> {
    /// Begins with the first row that meets these conditions.
    pub fn restart(&mut self, conditions: [Condition; N]) {
        let mut keys = [const { std::mem::MaybeUninit::<pg_sys::ScanKeyData>::zeroed() }; N];
        // SAFETY: the scan is open. The keys are copied; each function compares values of its column's type.
        unsafe {
            for (key, condition) in keys.iter_mut().zip(conditions) {
                pg_sys::ScanKeyInit(
                    key.as_mut_ptr(),
                    condition.column,
                    condition.strategy as pg_sys::StrategyNumber,
                    condition.function.into(),
                    condition.value,
                );
            }
            pg_sys::ExecClearTuple(self.slot);
            pg_sys::index_rescan(self.scan, keys.as_mut_ptr().cast(), N as c_int, std::ptr::null_mut(), 0);
        }
    }

    /// The first columns of the next row. They live until the next call, and as long as the scan.
    pub fn next_row<const COLUMNS: usize>(&mut self) -> Option<[Option<pg_sys::Datum>; COLUMNS]> {
        let direction = match self.order {
            Order::Ascending => pg_sys::ScanDirection::ForwardScanDirection,
            Order::Descending => pg_sys::ScanDirection::BackwardScanDirection,
        };
        // SAFETY: the scan is open, and the slot is made for its table, which has these columns.
        unsafe {
            let is_found = compat::guarded(|| {
                let is_found = compat::raw::index_getnext_slot(self.scan, direction, self.slot);
                if is_found {
                    compat::raw::slot_getsomeattrs_int(self.slot, COLUMNS as c_int);
                }
                is_found
            });
            is_found.then(|| {
                std::array::from_fn(|column| {
                    (!*(*self.slot).tts_isnull.add(column)).then(|| *(*self.slot).tts_values.add(column))
                })
            })
        }
    }
}

impl<const N: usize> Scan<'_, N> {
    /// Whether the active snapshot sees the row that was returned last. That does not count as a read either.
    #[must_use]
    pub fn is_row_seen(&self) -> bool {
        // SAFETY: the slot holds a row of the open table, whose access method has this function.
        unsafe {
            let table = self.relations.table.raw();
            let see = (*(*table).rd_tableam).tuple_satisfies_snapshot;
            see.is_some_and(|see| see(table, self.slot, pg_sys::GetActiveSnapshot()))
        }
    }
}

impl<const N: usize> Drop for Scan<'_, N> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: pairs with `Indexed::scan_later`.
            unsafe {
                pg_sys::ExecDropSingleTupleTableSlot(self.slot);
                pg_sys::index_endscan(self.scan);
            }
        }
    }
}
