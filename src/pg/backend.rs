//! Owns the questions about this process: its database, its pid, its user.
//!
//! Runs in: any process.

use pgrx::pg_sys;

/// The database that this process is connected to; invalid for one that is connected to none.
#[must_use]
pub fn database() -> pg_sys::Oid {
    // SAFETY: a plain global of this process.
    unsafe { pg_sys::MyDatabaseId }
}

/// The process id.
#[must_use]
pub fn pid() -> i32 {
    // SAFETY: a plain global of this process.
    unsafe { pg_sys::MyProcPid }
}

/// The user with whose rights the session acts at present. In a transaction.
#[must_use]
pub fn user() -> pg_sys::Oid {
    // SAFETY: reads a plain global of this process.
    unsafe { pg_sys::GetUserId() }
}
