//! Owns subtransactions: work whose ERROR is caught and rolled back alone.
//!
//! Runs in: any process, in a transaction.

use std::panic::AssertUnwindSafe;

use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;

/// Runs `work` in a subtransaction.
///
/// # Errors
/// The error that `work` raised; what it did is rolled back.
pub fn run<R>(work: impl FnOnce() -> R) -> Result<R, Box<CaughtError>> {
    // SAFETY: in a transaction. Begin is paired with release or rollback, both of which forget the subtransaction's memory
    // and resources, so those of before are restored.
    unsafe {
        let (memory, resources) = (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner);
        let restore = move || {
            pg_sys::MemoryContextSwitchTo(memory);
            pg_sys::CurrentResourceOwner = resources;
        };
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(memory);
        PgTryBuilder::new(AssertUnwindSafe(|| {
            let result = work();
            pg_sys::ReleaseCurrentSubTransaction();
            restore();
            Ok(result)
        }))
        .catch_others(move |cause| {
            pg_sys::RollbackAndReleaseCurrentSubTransaction();
            restore();
            Err(Box::new(cause))
        })
        .execute()
    }
}
