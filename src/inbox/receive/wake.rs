//! Owns the wake-up of those who wait for events, when a session frees a lane that they have found locked.
//!
//! Runs in: backends, at the end of transactions, after their locks are released. Nothing may fail there. A prepared
//! transaction keeps its locks until a command ends it, in any session.

use std::cell::Cell;
use std::ffi::c_void;

use pgrx::prelude::*;

use crate::inbox::arrivals;
use crate::pg::utility_hook::{After, Observer};

thread_local! {
    /// Whether the transaction that is ending, or a part of it, leaves something to receive in the lanes that it frees.
    static IS_DUE: Cell<bool> = const { Cell::new(false) };
}

/// Registers for the release of locks; inherited by every backend.
pub fn init() {
    // SAFETY: the callback lives as long as the library, which is never unloaded.
    unsafe { pg_sys::RegisterResourceReleaseCallback(Some(at_release), std::ptr::null_mut()) }
}

/// Those who wait are woken when the transaction, or the part of it that ends, has released its locks.
pub fn after_release() {
    IS_DUE.set(true);
}

/// Runs several times at every end of a transaction, and of a part of it, in every backend.
#[pg_guard]
unsafe extern "C-unwind" fn at_release(
    phase: pg_sys::ResourceReleasePhase::Type,
    _is_commit: bool,
    _is_top_level: bool,
    _argument: *mut c_void,
) {
    if phase == pg_sys::ResourceReleasePhase::RESOURCE_RELEASE_AFTER_LOCKS && IS_DUE.take() {
        arrivals::lanes_freed();
    }
}

/// Observes the commands that end prepared transactions.
pub static OBSERVER: EndsOfPrepared = EndsOfPrepared;

/// The observer.
pub struct EndsOfPrepared;

impl Observer for EndsOfPrepared {
    fn observes(&self, tag: pg_sys::NodeTag) -> bool {
        tag == pg_sys::NodeTag::T_TransactionStmt
    }

    unsafe fn before(&self, statement: *mut pg_sys::Node) -> Option<After> {
        use pg_sys::TransactionStmtKind::{TRANS_STMT_COMMIT_PREPARED, TRANS_STMT_ROLLBACK_PREPARED};
        // SAFETY: a statement of the kind that is observed.
        let kind = unsafe { (*statement.cast::<pg_sys::TransactionStmt>()).kind };
        // Nobody knows any more whether it has received. The command itself releases its locks, so they are free after it.
        [TRANS_STMT_COMMIT_PREPARED, TRANS_STMT_ROLLBACK_PREPARED]
            .contains(&kind)
            .then_some(After { call: |_| arrivals::lanes_freed(), object: pg_sys::InvalidOid })
    }
}
