//! Owns snapshots, which are active while they live.
//!
//! Runs in: any process with a database.

use pgrx::pg_sys;

/// Whether the transaction keeps to one snapshot.
#[must_use]
pub fn is_kept() -> bool {
    // SAFETY: a plain global of this process.
    unsafe { pg_sys::XactIsoLevel >= pg_sys::XACT_REPEATABLE_READ as i32 }
}

/// A snapshot, active while this lives. When an ERROR unwinds, the end of the transaction pops it.
pub struct Snapshot(());

impl Snapshot {
    /// Takes the transaction's snapshot. In a transaction.
    #[must_use]
    pub fn take() -> Self {
        // SAFETY: in a transaction; the pop in `drop` pairs with it.
        unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot()) };
        Self(())
    }

    /// Takes a snapshot of what is committed now, though the transaction may keep to an older one.
    #[must_use]
    pub fn take_latest() -> Self {
        // SAFETY: as above.
        unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot()) };
        Self(())
    }

    /// The running transactions' full ids, and the snapshot's upper bound. `next_xid` is the next full id to
    /// be assigned, read before the snapshot.
    #[must_use]
    pub fn running(&self, next_xid: u64) -> (Vec<u64>, u64) {
        // SAFETY: the active snapshot lives as long as `self`; xip has xcnt entries, the top-level ids.
        unsafe {
            let snapshot = &*pg_sys::GetActiveSnapshot();
            let running =
                (0..snapshot.xcnt as usize).map(|at| widen(*snapshot.xip.add(at), next_xid)).collect();
            (running, widen(snapshot.xmax, next_xid))
        }
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: pairs with the push.
            unsafe { pg_sys::PopActiveSnapshot() }
        }
    }
}

/// The full id of a 32-bit one, which lies within half the range of `next_xid`.
fn widen(xid: pg_sys::TransactionId, next_xid: u64) -> u64 {
    let distance = (xid.into_inner()).wrapping_sub(next_xid as u32) as i32;
    next_xid.wrapping_add_signed(i64::from(distance))
}
