//! Owns the limit of the backlog, `event_outbox.max_backlog`: sessions count what they store, and `emit()` and captures compare
//! the relay's count with the limit.
//!
//! The count lies in shared memory, so that nobody counts rows. Commits add what they stored, the relay takes off what has left
//! the table, and corrects the count from time to time ([`crate::outbox::relay::backlog`]). Without a limit nobody counts.
//!
//! Runs in: client backends; also the relay, which counts what it moves and copies into the table.

use std::cell::Cell;
use std::ffi::c_void;
use std::sync::atomic::Ordering;

use event_outbox_policy::delivery::backlog_limit::{self, Answer};
use pgrx::prelude::*;

use crate::outbox::relay::{metrics, registration};
use crate::pg::user_error::UserError;
use crate::settings::backlog::{self as settings, Action};

thread_local! {
    /// How many events the current transaction has stored. Those of a subtransaction that is rolled back count too, until the
    /// relay counts the table.
    static STORED: Cell<i64> = const { Cell::new(0) };
    /// The current transaction was warned.
    static WARNED: Cell<bool> = const { Cell::new(false) };
}

/// Registers for the ends of this process' transactions; inherited by every backend.
pub fn init() {
    // SAFETY: the callback lives as long as the library, which is never unloaded.
    unsafe { pg_sys::RegisterXactCallback(Some(at_transaction_end), std::ptr::null_mut()) }
}

/// Counts an event that the current transaction stores.
pub fn count() {
    if settings::max_backlog() > 0 {
        STORED.set(STORED.get().saturating_add(1));
    }
}

/// Refuses another event, or warns of it, if the outbox is full.
pub fn check() {
    let limit = settings::max_backlog();
    if limit == 0 {
        return;
    }
    let counted =
        registration::slot_here().map_or(0, |slot| metrics::of(slot).backlog.load(Ordering::Relaxed));
    if let Answer::Full { waiting } = backlog_limit::answer(counted, STORED.get(), limit) {
        refuse(waiting, limit);
    }
}

#[cold]
fn refuse(waiting: i64, limit: i64) {
    let full = UserError {
        // For applications that try again. A code of our own would not survive the way through Rust, which knows only
        // PostgreSQL's.
        code: PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
        message: "the outbox is full".into(),
        detail: format!("About {waiting} events wait to be published; event_outbox.max_backlog is {limit}."),
        hint: "Try the transaction again later; outbox.check() tells why events wait.".into(),
    };
    match settings::max_backlog_action() {
        Action::Error => full.raise(),
        Action::Warning if WARNED.replace(true) => {}
        Action::Warning => full.warn(),
    }
}

/// Runs at every end of a transaction in every backend. Nothing here may fail: an ERROR would bring the cluster down.
#[pg_guard]
unsafe extern "C-unwind" fn at_transaction_end(event: pg_sys::XactEvent::Type, _argument: *mut c_void) {
    use pg_sys::XactEvent::{XACT_EVENT_ABORT, XACT_EVENT_COMMIT, XACT_EVENT_PREPARE};
    let is_commit = event == XACT_EVENT_COMMIT;
    if !is_commit && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE {
        return;
    }
    WARNED.set(false);
    let stored = STORED.replace(0);
    if is_commit
        && stored > 0
        && let Some(slot) = registration::slot_here()
    {
        metrics::of(slot).backlog.fetch_add(stored, Ordering::Relaxed);
    }
}
