//! The lock of a lane: whoever changes the state of a lane holds it until the end of the transaction.

use pgrx::pg_sys;

use crate::inbox::mistakes;
use crate::pg::backend;

/// Distinguishes these locks from those of `pg_advisory_lock()`, which have 1 or 2 here.
const FIELD_4: u16 = 3;

/// Waits for the lock of a lane. Call it in a transaction, which keeps the lock.
pub fn wait(subscription: i32, lane: u16) {
    if !mistakes::locks_lanes() {
        return;
    }
    let tag = tag(subscription, lane);
    // SAFETY: in a transaction; the tag lives as long as the call.
    unsafe { pg_sys::LockAcquire(&tag, pg_sys::ExclusiveLock as pg_sys::LOCKMODE, false, false) };
}

/// Takes the lock of a lane if no other transaction holds it. Returns whether this one holds it now. Call it in a
/// transaction, which keeps the lock.
#[must_use]
pub fn try_acquire(subscription: i32, lane: u16) -> bool {
    if !mistakes::locks_lanes() {
        return true;
    }
    let tag = tag(subscription, lane);
    // SAFETY: in a transaction; the tag lives as long as the call.
    let result = unsafe { pg_sys::LockAcquire(&tag, pg_sys::ExclusiveLock as pg_sys::LOCKMODE, false, true) };
    result != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
}

/// Releases the lock of a lane that was taken once more than it is needed.
pub fn release(subscription: i32, lane: u16) {
    if !mistakes::locks_lanes() {
        return;
    }
    let tag = tag(subscription, lane);
    // SAFETY: this transaction holds the lock.
    unsafe { pg_sys::LockRelease(&tag, pg_sys::ExclusiveLock as pg_sys::LOCKMODE, false) };
}

/// Takes the lock of the events that may have crashed the server: one of them is received at a time, in all databases. Returns
/// whether this transaction holds it now.
#[must_use]
pub fn try_acquire_suspects() -> bool {
    // SAFETY: in a transaction; the tag lives as long as the call.
    let result =
        unsafe { pg_sys::LockAcquire(&SUSPECTS, pg_sys::ExclusiveLock as pg_sys::LOCKMODE, false, true) };
    result != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
}

/// Releases the lock of [`try_acquire_suspects`], if no such event was received.
pub fn release_suspects() {
    // SAFETY: this transaction holds the lock.
    unsafe { pg_sys::LockRelease(&SUSPECTS, pg_sys::ExclusiveLock as pg_sys::LOCKMODE, false) };
}

/// No database and no subscription has these numbers.
static SUSPECTS: pg_sys::LOCKTAG = pg_sys::LOCKTAG {
    locktag_field1: 0,
    locktag_field2: 0,
    locktag_field3: 0,
    locktag_field4: FIELD_4,
    locktag_type: pg_sys::LockTagType::LOCKTAG_ADVISORY as u8,
    locktag_lockmethodid: pg_sys::USER_LOCKMETHOD as u8,
};

fn tag(subscription: i32, lane: u16) -> pg_sys::LOCKTAG {
    pg_sys::LOCKTAG {
        locktag_field1: backend::database().to_u32(),
        locktag_field2: subscription.cast_unsigned(),
        locktag_field3: lane.into(),
        locktag_field4: FIELD_4,
        locktag_type: pg_sys::LockTagType::LOCKTAG_ADVISORY as u8,
        locktag_lockmethodid: pg_sys::USER_LOCKMETHOD as u8,
    }
}
