//! Owns the settings of a worker's session.
//!
//! Runs in: a worker's main thread, at its beginning.

use std::ffi::CStr;

use pgrx::prelude::*;

use super::process::force_setting;
use crate::pg::compat;

/// Sets what all statements of a worker rest on, for its session.
pub fn prepare() {
    const SETTINGS: [(&CStr, &CStr); 17] = [
        // The owner of a database may have set another role for all its sessions, which cannot do what a
        // worker does.
        (c"role", c"none"),
        (c"search_path", c"pg_catalog"),
        // A plan from the time when the table was empty must not be a sequential scan.
        (c"plan_cache_mode", c"force_generic_plan"),
        (c"enable_seqscan", c"off"),
        (c"enable_bitmapscan", c"off"),
        (c"enable_sort", c"off"),
        (c"enable_hashjoin", c"off"),
        (c"enable_mergejoin", c"off"),
        (c"jit", c"off"),
        // What a worker stores after a crash can be repeated, so it need not wait for the disk.
        (c"synchronous_commit", c"off"),
        // What a database or the server may have set for its sessions does not suit this one.
        (c"default_transaction_read_only", c"off"),
        (c"default_transaction_isolation", c"read committed"),
        (c"statement_timeout", c"0"),
        (c"idle_in_transaction_session_timeout", c"0"),
        // Shorter than anybody's deadlock_timeout: should there be a deadlock, it is the worker that yields.
        (c"lock_timeout", c"500ms"),
        (c"session_replication_role", c"origin"),
        (c"row_security", c"on"),
    ];
    // SAFETY: the user that the process is connected as: a database can have set another for its sessions.
    unsafe { pg_sys::SetSessionAuthorization(pg_sys::Oid::from(pg_sys::BOOTSTRAP_SUPERUSERID), true) };
    for (name, value) in SETTINGS.into_iter().chain(compat::LATER_SETTINGS) {
        force_setting(name, value);
    }
}
