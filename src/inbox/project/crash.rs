//! Owns what a projection writes down of the events that it is applying, should the server crash. See
//! [`crate::inbox::receive::in_flight`].
//!
//! Runs in: the process of a projection.

use std::cell::Cell;
use std::ffi::c_void;

use event_outbox_policy::inbox::in_flight::InFlight;
use pgrx::prelude::*;

use crate::inbox::receive::{crashed, in_flight, wake};
use crate::inbox::table::rebuilds::COPY;
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

/// Writes down that the transaction gives the rows of a rebuild to its projection's table. They are many: a crash is the fault of
/// none.
pub fn write_down_copy(rebuild: i32) {
    in_flight::write(&[InFlight {
        database: in_flight::database(),
        subscription: rebuild,
        lane: COPY,
        based_on: 0,
        upto: 0,
        count: 2,
        retried: None,
        has_waited: false,
        is_to_blame: false,
    }]);
}

/// Whether the worker still has to count a crash of this rebuild.
#[must_use]
pub fn is_being_counted(rebuild: i32) -> bool {
    crashed::holds(rebuild, COPY)
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
