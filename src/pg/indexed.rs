//! Owns tables that are read and written by one index, without the executor.
//!
//! It is for tables of the extension's own. [`Layout::find`] tells whether a table is as it was created: without triggers,
//! rules, checks, policies or further columns. What an executor prepares for each statement takes longer than to find one row.
//!
//! Runs in: any process, in a transaction.

use pgrx::prelude::*;

use super::bulk_insert::{Column, has_only};
use super::compat;
use super::index_scan::{Condition, Order, Scan};
use super::relation::{self, OpenRelation};

/// Functions that the bindings of pgrx have too, here without the guard around each call.
mod raw {
    use pgrx::pg_sys;
    use std::ffi::c_void;

    unsafe extern "C-unwind" {
        pub fn BuildIndexInfo(index: pg_sys::Relation) -> *mut pg_sys::IndexInfo;
        #[allow(clippy::too_many_arguments)]
        pub fn index_insert(
            index: pg_sys::Relation,
            values: *mut pg_sys::Datum,
            nulls: *mut bool,
            place: pg_sys::ItemPointer,
            table: pg_sys::Relation,
            check: pg_sys::IndexUniqueCheck::Type,
            is_unchanged: bool,
            info: *mut pg_sys::IndexInfo,
        ) -> bool;
        pub fn pfree(memory: *mut c_void);
    }
}

/// An index that is expected of a table: a b-tree in ascending order.
#[derive(Debug, Clone, Copy)]
pub struct WantedIndex {
    /// The numbers of its columns.
    pub keys: &'static [pg_sys::AttrNumber],
    /// Whether it must be unique, and checked at once.
    pub is_unique: bool,
    /// The number of the boolean column that tells which rows it covers, if not all.
    pub covers: Option<pg_sys::AttrNumber>,
}

/// What is expected of a table: its columns, and the columns of the index by which it is read.
pub struct Wanted {
    /// The columns.
    pub columns: &'static [Column],
    /// The numbers of the index's columns.
    pub keys: &'static [pg_sys::AttrNumber],
    /// Whether the index must be unique, and the only one: then rows can be inserted.
    pub is_only: bool,
}

impl Wanted {
    fn index(&self) -> WantedIndex {
        WantedIndex { keys: self.keys, is_unique: self.is_only, covers: None }
    }
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
        let index = match wanted.is_only {
            true => all_indexes(table, wanted.columns, [wanted.index()])?[0],
            false => index_of(table, wanted.columns, wanted.index())?,
        };
        Some(Self { index })
    }

    /// Opens the index of the table, too.
    #[must_use]
    pub fn open(self, table: OpenRelation, lock: pg_sys::LOCKMODE) -> Indexed {
        Indexed { index: OpenRelation::open(self.index, lock), table }
    }
}

/// An index of a table that is as wanted.
#[must_use]
pub fn index_of(table: &OpenRelation, columns: &[Column], wanted: WantedIndex) -> Option<pg_sys::Oid> {
    indexes(table).into_iter().find(|index| is_as_wanted(*index, columns, wanted))
}

/// The indexes of a table, if it has just those that are wanted, in that order. For who inserts.
#[must_use]
pub fn all_indexes<const N: usize>(
    table: &OpenRelation,
    columns: &[Column],
    wanted: [WantedIndex; N],
) -> Option<[pg_sys::Oid; N]> {
    let found = wanted.map(|wanted| index_of(table, columns, wanted).unwrap_or(pg_sys::InvalidOid));
    let has_all = indexes(table).iter().all(|index| found.contains(index));
    (has_all && indexes(table).len() == N && !found.contains(&pg_sys::InvalidOid)).then_some(found)
}

fn indexes(table: &OpenRelation) -> Vec<pg_sys::Oid> {
    // SAFETY: the relation is open.
    let all = unsafe { pgrx::PgList::<pg_sys::Oid>::from_pg(pg_sys::RelationGetIndexList(table.raw())) };
    all.iter_oid().collect()
}

fn is_as_wanted(index: pg_sys::Oid, columns: &[Column], wanted: WantedIndex) -> bool {
    let (index, count) = (OpenRelation::open(index, relation::READ), wanted.keys.len());
    // SAFETY: an open index has a description, with as many columns as it says, and lists of expressions or null; families,
    // collations and options are arrays with an entry for each key column.
    unsafe {
        let described = &*index.data().rd_index;
        let is_in_use = described.indisready && described.indisvalid && described.indislive;
        let is_checked = match described.indisunique {
            true => described.indimmediate,
            false => !wanted.is_unique,
        };
        let is_sorted = |(at, key): (usize, &pg_sys::AttrNumber)| {
            let (_, of_type, _) = columns[*key as usize - 1];
            let collation =
                if of_type == pg_sys::TEXTOID { pg_sys::DEFAULT_COLLATION_OID } else { pg_sys::InvalidOid };
            Some((*index.data().rd_opfamily.add(at)).to_u32()) == family_of(of_type)
                && *index.data().rd_indcollation.add(at) == collation
                && *index.data().rd_indoption.add(at) == 0
        };
        is_in_use
            && is_checked
            && usize::try_from(described.indnatts).is_ok_and(|columns| columns == count)
            && described.indnkeyatts == described.indnatts
            && described.indkey.values.as_slice(count) == wanted.keys
            && index.class().relam == pg_sys::BTREE_AM_OID
            && wanted.keys.iter().enumerate().all(is_sorted)
            && pg_sys::RelationGetIndexExpressions(index.raw()).is_null()
            && covers(&index, wanted.covers)
    }
}

/// The family of operators by which PostgreSQL sorts values of a type.
fn family_of(of_type: pg_sys::Oid) -> Option<u32> {
    /// PostgreSQL has no name for it.
    const UUID_FAMILY: u32 = 2968;
    match of_type {
        pg_sys::INT2OID | pg_sys::INT4OID | pg_sys::INT8OID => Some(pg_sys::INTEGER_BTREE_FAM_OID.to_u32()),
        pg_sys::TEXTOID => Some(pg_sys::TEXT_BTREE_FAM_OID.to_u32()),
        pg_sys::UUIDOID => Some(UUID_FAMILY),
        _ => None,
    }
}

/// Whether an index covers just the rows in which this column is true; all rows if there is none.
///
/// # Safety
/// The index is open.
unsafe fn covers(index: &OpenRelation, column: Option<pg_sys::AttrNumber>) -> bool {
    // SAFETY: as promised by the caller. A node has the type that its tag names.
    unsafe {
        let predicate = pgrx::PgList::<pg_sys::Node>::from_pg(pg_sys::RelationGetIndexPredicate(index.raw()));
        match (column, predicate.get_ptr(0)) {
            (None, None) => true,
            (Some(column), Some(only)) => {
                predicate.len() == 1
                    && pgrx::is_a(only, pg_sys::NodeTag::T_Var)
                    && (*only.cast::<pg_sys::Var>()).varattno == column
            }
            _ => false,
        }
    }
}

/// An open table that is as it was created, and its open index.
pub struct Indexed {
    table: OpenRelation,
    index: OpenRelation,
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
        // SAFETY: the snapshot is active, or lives as long as the process.
        unsafe { Scan::prepare(&self.table, &self.index, snapshot, order) }
    }

    /// Inserts a row, whose values have the types of the columns. An ERROR if the unique index has its keys already.
    pub fn insert<const N: usize>(&self, row: [Option<pg_sys::Datum>; N]) {
        insert(&self.table, [&self.index], row);
        show();
    }
}

/// Inserts a row into a table and into these indexes, which cover columns of it. Its values have the types of the columns. An
/// ERROR if a unique index has its keys already. Later commands see the row after [`show`].
pub fn insert<'a, const N: usize>(
    table: &OpenRelation,
    indexes: impl IntoIterator<Item = &'a OpenRelation>,
    row: [Option<pg_sys::Datum>; N],
) {
    // SAFETY: the relations are open and locked for writing. The slot is made for the table, and has its columns, which the
    // caller gives.
    unsafe {
        let slot = pg_sys::table_slot_create(table.raw(), std::ptr::null_mut());
        debug_assert_eq!((*(*slot).tts_tupleDescriptor).natts as usize, N);
        for (column, value) in row.iter().enumerate() {
            *(*slot).tts_isnull.add(column) = value.is_none();
            *(*slot).tts_values.add(column) = value.unwrap_or(pg_sys::Datum::from(0_usize));
        }
        pg_sys::ExecStoreVirtualTuple(slot);
        let command = pg_sys::GetCurrentCommandId(true);
        compat::guarded(|| compat::insert_row(table.raw(), slot, command));
        indexes.into_iter().for_each(|index| add_to_index(table, index, &row, &mut (*slot).tts_tid));
        pg_sys::ExecDropSingleTupleTableSlot(slot);
    }
}

/// # Safety
/// Both are open and locked for writing. The index covers columns of the table, and the row lies at `place`.
unsafe fn add_to_index<const N: usize>(
    table: &OpenRelation,
    index: &OpenRelation,
    row: &[Option<pg_sys::Datum>; N],
    place: &mut pg_sys::ItemPointerData,
) {
    let mut keys = [pg_sys::Datum::from(0_usize); N];
    let mut nulls = [false; N];
    // SAFETY: as promised by the caller; an open index has a description, with as many columns as it says.
    unsafe {
        let described = &*index.data().rd_index;
        let columns = described.indkey.values.as_slice(described.indnatts as usize);
        for (key, column) in columns.iter().enumerate() {
            let value = row[*column as usize - 1];
            (keys[key], nulls[key]) = (value.unwrap_or(keys[key]), value.is_none());
        }
        let check = match described.indisunique {
            true => pg_sys::IndexUniqueCheck::UNIQUE_CHECK_YES,
            false => pg_sys::IndexUniqueCheck::UNIQUE_CHECK_NO,
        };
        // One guard for all three.
        compat::guarded(|| {
            let (keys, nulls) = (keys.as_mut_ptr(), nulls.as_mut_ptr());
            let info = raw::BuildIndexInfo(index.raw());
            raw::index_insert(index.raw(), keys, nulls, place, table.raw(), check, false, info);
            raw::pfree(info.cast());
        });
    }
}

/// Lets later commands of this transaction see what was inserted.
pub fn show() {
    // SAFETY: in a transaction.
    unsafe { pg_sys::CommandCounterIncrement() }
}
