//! A library over Postgres, for any process. It names no capability.

use pgrx::prelude::*;

pub mod atomic_enum;
pub mod backend;
pub mod catalog;
pub mod compat;
pub mod condition;
pub mod durability;
pub mod function;
pub mod relation;
pub mod shmem;
pub mod snapshot;
pub mod spi;
pub mod status_row;
pub mod trigger;
pub mod user_context;
pub mod user_error;
pub mod utility_hook;
pub mod varlena;
pub mod wait_set;
pub mod watch;

/// Raises an error unless the library is being preloaded: its workers and its shared memory exist only
/// if the postmaster has loaded it.
pub fn require_preloading() {
    // SAFETY: a plain flag that the postmaster sets while it loads shared_preload_libraries.
    if unsafe { pg_sys::process_shared_preload_libraries_in_progress } {
        return;
    }
    user_error::UserError {
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

/// The current time in microseconds since 1970-01-01 UTC.
#[must_use]
pub fn now() -> i64 {
    // SAFETY: reads the clock.
    compat::unix_micros(unsafe { pg_sys::GetCurrentTimestamp() })
}
