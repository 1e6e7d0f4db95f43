//! Owns locks of rows, as `SELECT … FOR NO KEY UPDATE` takes them, without the executor.
//!
//! Runs in: client backends, in a transaction.

use pgrx::prelude::*;

use super::compat;
use super::relation::OpenRelation;

/// Locks the row at this place until the end of the transaction, and waits for others' locks of it. Returns `false`, and leaves it
/// alone, if that is not the last version of the row, or this command has written it. The table is locked for locking rows.
#[must_use]
pub fn lock(table: &OpenRelation, mut place: pg_sys::ItemPointerData) -> bool {
    let mut failure = pg_sys::TM_FailureData::default();
    // SAFETY: the relation is open, and has an access method with all functions that are not documented as optional. The slot is
    // made for it, and dropped here, or with the transaction after an ERROR.
    unsafe {
        let Some(lock) = (*(*table.raw()).rd_tableam).tuple_lock else { return false };
        let slot = pg_sys::table_slot_create(table.raw(), std::ptr::null_mut());
        let result = compat::guarded(|| {
            lock(
                table.raw(),
                &mut place,
                pg_sys::GetActiveSnapshot(),
                slot,
                pg_sys::GetCurrentCommandId(true),
                pg_sys::LockTupleMode::LockTupleNoKeyExclusive,
                pg_sys::LockWaitPolicy::LockWaitBlock,
                0,
                &mut failure,
            )
        });
        pg_sys::ExecDropSingleTupleTableSlot(slot);
        result == pg_sys::TM_Result::TM_Ok
    }
}
