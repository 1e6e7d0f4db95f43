//! Owns the questions about how the server was started.
//!
//! Runs in: the postmaster, and a backend that loads the library without preloading.

use pgrx::prelude::*;

use super::user_error::UserError;

/// Raises an error unless the library is being preloaded: its workers and its shared memory exist only
/// if the postmaster has loaded it.
pub fn require_preloading() {
    // SAFETY: a plain flag that the postmaster sets while it loads shared_preload_libraries.
    if unsafe { pg_sys::process_shared_preload_libraries_in_progress } {
        return;
    }
    UserError {
        code: PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        message: "event_outbox must be loaded via shared_preload_libraries".into(),
        detail: "Its background workers are started with the server.".into(),
        hint: "Add shared_preload_libraries = 'event_outbox' to postgresql.conf, and restart the server."
            .into(),
    }
    .raise()
}

/// Whether pg_upgrade has started this server.
#[must_use]
pub fn is_binary_upgrade() -> bool {
    // SAFETY: a plain flag, set by the postmaster before it loads libraries.
    unsafe { pg_sys::IsBinaryUpgrade }
}

/// The number that names this server and all copies of its files.
#[must_use]
pub fn system_identifier() -> u64 {
    // SAFETY: reads what was read from the control file at start.
    unsafe { pg_sys::GetSystemIdentifier() }
}

/// The server's timeline, which grows with each promotion. Not on a standby.
#[must_use]
pub fn timeline() -> u32 {
    // SAFETY: reads shared memory; the server is not in recovery, since a relay runs on it.
    unsafe { pg_sys::GetWALInsertionTimeLine() }
}
