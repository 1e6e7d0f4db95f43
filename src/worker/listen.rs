//! The channel `outbox`: a NOTIFY on it, from any client, makes the relay look at once.

use pgrx::prelude::*;

use super::transaction;
use crate::pg::compat;

/// Listens, from now until the process ends.
///
/// # Errors
/// Those of the transaction.
pub fn start() -> Result<(), transaction::Failed> {
    // SQL's LISTEN is refused in background workers, since they have to answer the interrupts by
    // themselves; this one does, in `answer`.
    transaction::run(c"LISTEN outbox", || compat::listen(c"outbox"))
}

/// Whether notifications have arrived.
#[must_use]
pub fn is_pending() -> bool {
    compat::is_notified()
}

/// Takes in the notifications that have arrived, if any. Says whether any did, on whatever channel
/// of the database.
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
