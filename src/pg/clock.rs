//! Owns the clock: the time of the server, in the unit of all times in Rust.
//!
//! Runs in: any process.

use pgrx::prelude::*;

use super::compat;

/// The current time in microseconds since 1970-01-01 UTC.
#[must_use]
pub fn now() -> i64 {
    // SAFETY: reads the clock.
    compat::unix_micros(unsafe { pg_sys::GetCurrentTimestamp() })
}
