//! Owns locks that tell others a number: they conflict with nothing, and who asks learns which numbers are held.
//!
//! They are kept until the end of the transaction, also of one that is prepared, and go with a crash. They are advisory locks
//! apart from those of `pg_advisory_lock()`, so `pg_locks` shows them.
//!
//! Runs in: client backends and workers, in a transaction.

use pgrx::pg_sys;

use super::backend;

/// Distinguishes these locks from those of `pg_advisory_lock()`, which have 1 or 2 here, and from the inbox's, which have 3.
const FIELD_4: u16 = 4;

/// Holds a number until the end of the transaction. Numbers are not negative.
pub fn hold(number: i64) {
    let number = number.cast_unsigned();
    let tag = pg_sys::LOCKTAG {
        locktag_field1: backend::database().to_u32(),
        locktag_field2: (number >> 32) as u32,
        locktag_field3: number as u32,
        locktag_field4: FIELD_4,
        locktag_type: pg_sys::LockTagType::LOCKTAG_ADVISORY as u8,
        locktag_lockmethodid: pg_sys::USER_LOCKMETHOD as u8,
    };
    // SAFETY: in a transaction; the tag lives as long as the call. Nobody takes a mode that conflicts with this one.
    unsafe { pg_sys::LockAcquire(&tag, pg_sys::ShareLock as pg_sys::LOCKMODE, false, false) };
}

/// The lowest number that a transaction of this database holds, running or prepared.
#[must_use]
pub fn lowest() -> Option<i64> {
    let database = backend::database().to_u32();
    // SAFETY: a copy of all locks, in the current memory context; the array has as many entries as it says.
    unsafe {
        let all = pg_sys::GetLockStatusData();
        let locks = match usize::try_from((*all).nelements) {
            Ok(count) if count > 0 => std::slice::from_raw_parts((*all).locks, count),
            _ => &[],
        };
        let tags = locks.iter().filter(|lock| lock.holdMask != 0).map(|lock| &lock.locktag);
        let held = tags.filter(|tag| {
            tag.locktag_field4 == FIELD_4
                && tag.locktag_field1 == database
                && tag.locktag_type == pg_sys::LockTagType::LOCKTAG_ADVISORY as u8
                && tag.locktag_lockmethodid == pg_sys::USER_LOCKMETHOD as u8
        });
        let lowest = held
            .map(|tag| ((u64::from(tag.locktag_field2) << 32) | u64::from(tag.locktag_field3)).cast_signed())
            .min();
        if !(*all).locks.is_null() {
            pg_sys::pfree((*all).locks.cast());
        }
        pg_sys::pfree(all.cast());
        lowest
    }
}
