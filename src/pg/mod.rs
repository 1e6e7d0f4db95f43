//! Everything that calls Postgres.

use pgrx::prelude::*;

pub mod acting;
pub mod append;
pub mod catalog;
pub mod compat;
pub mod control;
pub mod databases;
pub mod durable;
pub mod emit;
pub mod errors;
pub mod figures;
pub mod functions;
pub mod hindrance;
pub mod hooks;
pub mod listen;
pub mod log;
pub mod mailbox;
pub mod process;
pub mod relcache;
pub mod rows;
pub mod secret;
pub mod settings;
pub mod shared;
pub mod sleep;
pub mod spi;
pub mod state;
pub mod statements;
pub mod status;
pub mod topic_rights;
pub mod transaction;
pub mod triggers;
pub mod try_emit;
pub mod vacate;
pub mod varlena;
pub mod wait_published;
pub mod wake;

/// Raises an error unless the library is being preloaded: the relay and its shared memory exist only
/// where the postmaster has loaded it.
pub fn require_preloading() {
    // SAFETY: a plain flag that the postmaster sets while it loads shared_preload_libraries.
    if unsafe { pg_sys::process_shared_preload_libraries_in_progress } {
        return;
    }
    errors::Complaint {
        code: PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        message: "event_outbox must be loaded via shared_preload_libraries".into(),
        detail: "The relay that publishes events is started with the server.".into(),
        hint: "Add shared_preload_libraries = 'event_outbox' to postgresql.conf, and restart the server."
            .into(),
    }
    .raise()
}

/// Whether pg_upgrade has started this server, for its own work.
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
