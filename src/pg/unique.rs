//! Owns the look at a unique index that heeds rows of transactions that have not ended, as the check of a unique constraint
//! does: it waits for them.
//!
//! Runs in: client backends, in a transaction.

use pgrx::prelude::*;

use super::compat;
use super::relation::{self, OpenRelation};

/// In ascending order.
const FORWARD: pg_sys::ScanDirection::Type = pg_sys::ScanDirection::ForwardScanDirection;

/// A transaction to wait for.
#[derive(Debug, Clone, Copy)]
struct Writer {
    xid: pg_sys::TransactionId,
    /// Of an insertion that may be taken back before its transaction ends; 0 if it may not.
    token: u32,
}

/// What one scan has found.
enum Seen {
    Nothing,
    Row,
    Uncertain(Writer),
}

/// Whether a table has a row with these texts in its primary key: committed, or of this transaction. Waits for transactions
/// that are adding or removing such a row. `None` if the primary key has not as many columns of type text.
#[must_use]
pub fn has_row<const N: usize>(table: pg_sys::Oid, texts: [pg_sys::Datum; N]) -> Option<bool> {
    let table = OpenRelation::open(table, relation::READ);
    // SAFETY: the relation is open.
    let index = unsafe { compat::primary_key_index(table.raw()) };
    if index == pg_sys::InvalidOid {
        return None;
    }
    let index = OpenRelation::open(index, relation::READ);
    if !has_only_texts(&index, N) {
        return None;
    }
    loop {
        match look(&table, &index, texts) {
            Seen::Nothing => return Some(false),
            Seen::Row => return Some(true),
            Seen::Uncertain(writer) => writer.wait(),
        }
    }
}

fn has_only_texts(index: &OpenRelation, count: usize) -> bool {
    // SAFETY: an open index has a description, and a type for each of its key columns.
    unsafe {
        let described = &*index.data().rd_index;
        usize::try_from(described.indnkeyatts).is_ok_and(|keys| keys == count)
            && (0..count).all(|column| *index.data().rd_opcintype.add(column) == pg_sys::TEXTOID)
    }
}

fn look<const N: usize>(table: &OpenRelation, index: &OpenRelation, texts: [pg_sys::Datum; N]) -> Seen {
    let mut snapshot = pg_sys::SnapshotData {
        snapshot_type: pg_sys::SnapshotType::SNAPSHOT_DIRTY,
        ..pg_sys::SnapshotData::default()
    };
    let mut keys = [pg_sys::ScanKeyData::default(); N];
    // SAFETY: both relations are open, and the index has N columns of type text. The slot is made for the table. The snapshot
    // outlives the scan, which ends here, or with the transaction after an ERROR.
    unsafe {
        for (column, (key, text)) in keys.iter_mut().zip(texts).enumerate() {
            pg_sys::ScanKeyEntryInitialize(
                key,
                0,
                pg_sys::AttrNumber::try_from(column + 1).unwrap_or(pg_sys::AttrNumber::MAX),
                pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber,
                pg_sys::TEXTOID,
                *index.data().rd_indcollation.add(column),
                pg_sys::F_TEXTEQ.into(),
                text,
            );
        }
        let count = std::ffi::c_int::try_from(N).unwrap_or(std::ffi::c_int::MAX);
        let slot = pg_sys::table_slot_create(table.raw(), std::ptr::null_mut());
        let scan = compat::begin_index_scan(table.raw(), index.raw(), &mut snapshot, count);
        pg_sys::index_rescan(scan, keys.as_mut_ptr(), count, std::ptr::null_mut(), 0);
        // The scan sets the snapshot's bounds to the transactions that have not ended.
        let found = compat::guarded(|| compat::raw::index_getnext_slot(scan, FORWARD, slot));
        let (xmin, xmax, token) = (snapshot.xmin, snapshot.xmax, snapshot.speculativeToken);
        pg_sys::index_endscan(scan);
        pg_sys::ExecDropSingleTupleTableSlot(slot);
        match [(xmin, token), (xmax, 0)].into_iter().find(|(xid, _)| *xid != pg_sys::InvalidTransactionId) {
            _ if !found => Seen::Nothing,
            Some((xid, token)) => Seen::Uncertain(Writer { xid, token }),
            None => Seen::Row,
        }
    }
}

impl Writer {
    /// Waits until its transaction, or the insertion, has ended. An ERROR in a deadlock, or after a cancel.
    fn wait(self) {
        // SAFETY: in a transaction; nothing is locked that an interrupt must not find.
        unsafe {
            if self.token == 0 {
                let nowhere = (std::ptr::null_mut(), std::ptr::null_mut());
                pg_sys::XactLockTableWait(self.xid, nowhere.0, nowhere.1, pg_sys::XLTW_Oper::XLTW_None);
            } else {
                pg_sys::SpeculativeInsertionWait(self.xid, self.token);
            }
        }
    }
}
