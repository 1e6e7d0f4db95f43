//! Owns what a projection writes down of the events that it is applying, should the server crash. See
//! [`crate::inbox::receive::in_flight`].
//!
//! Runs in: the process of a projection.

use std::cell::Cell;
use std::ffi::c_void;

use event_outbox_policy::inbox::in_flight::InFlight;
use pgrx::prelude::*;

use crate::inbox::receive::{in_flight, wake};
use crate::pg::backend;

thread_local! {
    /// Whether the transaction has the lock of suspect events, for which others may be waiting.
    static HAS_SUSPECTS: Cell<bool> = const { Cell::new(false) };
}

/// Registers for the ends of this process's transactions.
pub fn init_process() {
    // SAFETY: the callback lives as long as the library, which is never unloaded.
    unsafe { pg_sys::RegisterXactCallback(Some(at_transaction_end), std::ptr::null_mut()) }
}

/// Writes down what the transaction applies.
pub fn write_down(records: &[InFlight], are_suspect: bool) {
    HAS_SUSPECTS.set(are_suspect);
    in_flight::write(records);
}

/// At the end of a transaction nothing may fail: an ERROR at commit would bring the server down.
#[pg_guard]
unsafe extern "C-unwind" fn at_transaction_end(event: pg_sys::XactEvent::Type, _argument: *mut c_void) {
    use pg_sys::XactEvent::{XACT_EVENT_ABORT, XACT_EVENT_COMMIT};
    if !matches!(event, XACT_EVENT_COMMIT | XACT_EVENT_ABORT) {
        return;
    }
    if HAS_SUSPECTS.take() {
        wake::after_release();
    }
    // After a crash, the record is for the next start.
    if !(event == XACT_EVENT_ABORT && backend::is_orphan()) {
        in_flight::clear();
    }
}
