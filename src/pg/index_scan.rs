//! Owns scans of an index, without the executor.
//!
//! Runs in: any process, in a transaction.

use std::ffi::c_int;

use pgrx::prelude::*;

use super::compat;
use super::relation::OpenRelation;

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

    /// A `bigint` column has this value.
    #[must_use]
    pub fn bigint(column: pg_sys::AttrNumber, value: i64) -> Self {
        let (strategy, function) = (pg_sys::BTEqualStrategyNumber, pg_sys::F_INT8EQ);
        Self { column, strategy, function, value: pg_sys::Datum::from(value) }
    }

    /// A `text` column has this value.
    #[must_use]
    pub fn text(column: pg_sys::AttrNumber, value: pg_sys::Datum) -> Self {
        let (strategy, function) = (pg_sys::BTEqualStrategyNumber, pg_sys::F_TEXTEQ);
        Self { column, strategy, function, value }
    }

    /// A `uuid` column has this value.
    #[must_use]
    pub fn uuid(column: pg_sys::AttrNumber, value: pg_sys::Datum) -> Self {
        let (strategy, function) = (pg_sys::BTEqualStrategyNumber, pg_sys::F_UUID_EQ);
        Self { column, strategy, function, value }
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

/// A scan with this many conditions. When an ERROR unwinds, the end of the (sub)transaction ends it.
pub struct Scan<'a, const N: usize> {
    table: &'a OpenRelation,
    index: &'a OpenRelation,
    scan: pg_sys::IndexScanDesc,
    slot: *mut pg_sys::TupleTableSlot,
    order: Order,
}

impl<'a, const N: usize> Scan<'a, N> {
    /// A scan by this snapshot, to be started with conditions, maybe again and again.
    ///
    /// # Safety
    /// The index is one of the table's. The snapshot lives as long as the scan; it is active, or one of those that depend on
    /// nothing.
    #[must_use]
    pub unsafe fn prepare(
        table: &'a OpenRelation,
        index: &'a OpenRelation,
        snapshot: pg_sys::Snapshot,
        order: Order,
    ) -> Self {
        // SAFETY: as promised by the caller; both relations are open.
        unsafe {
            let scan = compat::begin_index_scan(table.raw(), index.raw(), snapshot, N as c_int);
            let slot = pg_sys::table_slot_create(table.raw(), std::ptr::null_mut());
            Self { table, index, scan, slot, order }
        }
    }

    /// Begins with the first row that meets these conditions.
    pub fn restart(&mut self, conditions: [Condition; N]) {
        let mut keys = [const { std::mem::MaybeUninit::<pg_sys::ScanKeyData>::zeroed() }; N];
        // SAFETY: the scan is open. The keys are copied; each function compares values of its column's type, in the collation of
        // the index, which has one for each key column.
        unsafe {
            for (key, condition) in keys.iter_mut().zip(conditions) {
                pg_sys::ScanKeyEntryInitialize(
                    key.as_mut_ptr(),
                    0,
                    condition.column,
                    condition.strategy as pg_sys::StrategyNumber,
                    pg_sys::InvalidOid,
                    *self.index.data().rd_indcollation.add(condition.column as usize - 1),
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
    /// Where the row lies that was returned last.
    #[must_use]
    pub fn place(&self) -> pg_sys::ItemPointerData {
        // SAFETY: the slot is alive.
        unsafe { (*self.slot).tts_tid }
    }

    /// Whether the active snapshot sees the row that was returned last. That does not count as a read either.
    #[must_use]
    pub fn is_row_seen(&self) -> bool {
        // SAFETY: the slot holds a row of the open table, whose access method has this function.
        unsafe {
            let table = self.table.raw();
            let see = (*(*table).rd_tableam).tuple_satisfies_snapshot;
            see.is_some_and(|see| see(table, self.slot, pg_sys::GetActiveSnapshot()))
        }
    }
}

impl<const N: usize> Drop for Scan<'_, N> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: pairs with `prepare`.
            unsafe {
                pg_sys::ExecDropSingleTupleTableSlot(self.slot);
                pg_sys::index_endscan(self.scan);
            }
        }
    }
}
