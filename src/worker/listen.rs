//! Owns listening on a channel: a NOTIFY from any client wakes the worker.
//!
//! Runs in: a worker's main thread.

use std::ffi::CStr;

use pgrx::prelude::*;

use super::transaction;
use crate::pg::compat;

/// Listens on a channel, from now until the process ends.
///
/// # Errors
/// Those of the transaction.
pub fn start(channel: &CStr) -> Result<(), transaction::Failed> {
    // Postgres refuses SQL's LISTEN in background workers, since they have to answer the interrupts by
    // themselves; this one does, in `answer`.
    transaction::run(c"event_outbox: listening", || compat::listen(channel))
}

/// Whether notifications have arrived.
#[must_use]
pub fn is_pending() -> bool {
    compat::is_notified()
}

/// Takes in the notifications that have arrived; whether there were any, on any channel of the database.
///
/// # Errors
/// Those of reading the queue.
pub fn answer() -> Result<bool, transaction::Failed> {
    if !is_pending() {
        return Ok(false);
    }
    PgTryBuilder::new(|| {
        compat::take_notifications();
        Ok(true)
    })
    .catch_others(|cause| Err(transaction::Failed::from_caught(cause)))
    .execute()
}
