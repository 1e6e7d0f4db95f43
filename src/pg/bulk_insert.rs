//! Inserts many rows into a table at once, without the executor: one WAL record for each page.
//!
//! It is for tables of the extension's own that are as they were created ([`Target::open`] tells): without triggers, rules,
//! checks, policies or further columns and indexes.
//!
//! Runs in: any process, in a transaction.

use std::ffi::CStr;

use pgrx::prelude::*;

use super::relation::{self, OpenRelation};
use super::{catalog, compat};

/// How many rows are handed to the table at once: as many as COPY buffers.
const ROWS: usize = 1000;

/// A column: its name, its type, and whether it may be null.
pub type Column = (&'static CStr, pg_sys::Oid, bool);

/// A table, open for writing, and its only index, which covers its first columns.
pub struct Target {
    table: OpenRelation,
    index: OpenRelation,
    keys: usize,
    columns: usize,
}

impl Target {
    /// Opens a table. `None` if it does not have just these columns and one plain index, which covers the first `keys`
    /// columns: then the caller inserts in SQL.
    #[must_use]
    pub fn open(table: pg_sys::Oid, columns: &[Column], keys: usize) -> Option<Self> {
        let table = OpenRelation::open(table, relation::WRITE);
        if !has_only(&table, columns) {
            return None;
        }
        // SAFETY: the relation is open.
        let indexes =
            unsafe { pgrx::PgList::<pg_sys::Oid>::from_pg(pg_sys::RelationGetIndexList(table.raw())) };
        let index = OpenRelation::open(indexes.get_oid(0).filter(|_| indexes.len() == 1)?, relation::WRITE);
        let numbers: Vec<pg_sys::AttrNumber> =
            (1..=keys).filter_map(|number| number.try_into().ok()).collect();
        // SAFETY: an open index has a description, with as many columns as it says, and lists of expressions or null.
        let is_plain = unsafe {
            let described = &*index.data().rd_index;
            described.indisready
                && described.indisvalid
                && usize::try_from(described.indnatts).is_ok_and(|count| count == keys)
                && described.indkey.values.as_slice(keys) == numbers
                && pg_sys::RelationGetIndexExpressions(index.raw()).is_null()
                && pg_sys::RelationGetIndexPredicate(index.raw()).is_null()
        };
        is_plain.then_some(Self { table, index, keys, columns: columns.len() })
    }

    /// Inserts `count` rows. `fill` gets the place of a row and writes its columns, which must have the table's types, into
    /// the slices for values and nulls. What it allocates in the current memory context is freed afterwards.
    pub fn insert(&self, count: usize, mut fill: impl FnMut(usize, &mut [pg_sys::Datum], &mut [bool])) {
        // SAFETY: the relation is open and locked for writing. The slots are made for it and dropped here; each has all its
        // columns. The memory context is deleted here, or with its parent after an ERROR.
        unsafe {
            let slots: Vec<_> = (0..count.min(ROWS))
                .map(|_| pg_sys::table_slot_create(self.table.raw(), std::ptr::null_mut()))
                .collect();
            let context = pg_sys::AllocSetContextCreateExtended(
                pg_sys::CurrentMemoryContext,
                c"event_outbox bulk insert".as_ptr(),
                pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
            );
            let info = pg_sys::BuildIndexInfo(self.index.raw());
            let bulk = pg_sys::GetBulkInsertState();
            for first in (0..count).step_by(ROWS) {
                let rows = (count - first).min(ROWS);
                let before = pg_sys::MemoryContextSwitchTo(context);
                for (row, slot) in slots.iter().take(rows).enumerate() {
                    pg_sys::ExecClearTuple(*slot);
                    let values = std::slice::from_raw_parts_mut((**slot).tts_values, self.columns);
                    let nulls = std::slice::from_raw_parts_mut((**slot).tts_isnull, self.columns);
                    fill(first + row, values, nulls);
                    pg_sys::ExecStoreVirtualTuple(*slot);
                }
                let command = pg_sys::GetCurrentCommandId(true);
                compat::guarded(|| compat::insert_rows(self.table.raw(), &slots[..rows], command, bulk));
                for slot in &slots[..rows] {
                    self.add_to_index(*slot, info);
                    pg_sys::ExecClearTuple(*slot);
                }
                pg_sys::MemoryContextSwitchTo(before);
                pg_sys::MemoryContextReset(context);
            }
            pg_sys::FreeBulkInsertState(bulk);
            slots.into_iter().for_each(|slot| pg_sys::ExecDropSingleTupleTableSlot(slot));
            pg_sys::MemoryContextDelete(context);
            // Later commands of this transaction see the rows.
            pg_sys::CommandCounterIncrement();
        }
    }

    /// # Safety
    /// The slot holds a row that was just inserted, and `info` describes the index.
    unsafe fn add_to_index(&self, slot: *mut pg_sys::TupleTableSlot, info: *mut pg_sys::IndexInfo) {
        let mut keys = [pg_sys::Datum::from(0_usize); pg_sys::INDEX_MAX_KEYS as usize];
        let mut nulls = [false; pg_sys::INDEX_MAX_KEYS as usize];
        // SAFETY: as promised by the caller; the slot has more columns than the index, which covers its first ones.
        unsafe {
            pg_sys::slot_getsomeattrs(slot, self.keys as std::ffi::c_int);
            for key in 0..self.keys {
                keys[key] = *(*slot).tts_values.add(key);
                nulls[key] = *(*slot).tts_isnull.add(key);
            }
            pg_sys::index_insert(
                self.index.raw(),
                keys.as_mut_ptr(),
                nulls.as_mut_ptr(),
                &raw mut (*slot).tts_tid,
                self.table.raw(),
                pg_sys::IndexUniqueCheck::UNIQUE_CHECK_NO,
                false,
                info,
            );
        }
    }
}

/// Whether a table has these columns and nothing that an INSERT would have to heed.
#[must_use]
pub fn has_only(table: &OpenRelation, columns: &[Column]) -> bool {
    table.data().trigdesc.is_null() && has_columns(table, columns)
}

/// The same, but for triggers.
#[must_use]
pub fn has_columns(table: &OpenRelation, columns: &[Column]) -> bool {
    let (relation, class) = (table.data(), table.class());
    // SAFETY: an open relation has a descriptor; its constraints are null if there are none.
    let has_checks = unsafe {
        (*relation.rd_att)
            .constr
            .as_ref()
            .is_some_and(|constr| constr.num_check > 0 || constr.has_generated_stored)
    };
    if class.relkind as u8 != pg_sys::RELKIND_RELATION
        || class.relispartition
        || class.relhassubclass
        || class.relrowsecurity
        || !relation.rd_rules.is_null()
        || has_checks
    {
        return false;
    }
    // SAFETY: the relation is open.
    let stored = unsafe { catalog::columns(table.raw()) };
    stored.clone().count() == columns.len()
        && stored.zip(columns).all(|((name, stored), (wanted, of_type, may_be_null))| {
            name == *wanted
                && stored.atttypid == *of_type
                && !stored.attisdropped
                && stored.attgenerated == 0
                && (*may_be_null || stored.attnotnull)
                && !(*may_be_null && stored.attnotnull)
        })
}
