//! Wakes workers at commit: a transaction notes what it will tell them, and tells them when it commits. Runs in: client
//! backends.
//!
//! Not by NOTIFY: that takes a lock at commit that serialises all writers, and forbids PREPARE TRANSACTION. Between a
//! commit and the worker there are a variable of the backend, an atomic and a latch.

use std::cell::Cell;
use std::ffi::c_void;
use std::sync::atomic::Ordering;

use pgrx::prelude::*;

use super::phase::Request;
use super::slot::Slot;
use super::slots;
use super::vacate;

/// What the current transaction will do when it commits. A subtransaction's rollback does not take it
/// back: to wake the relay in vain is harmless.
#[derive(Clone, Copy, Default)]
struct Intent {
    /// The slot of this database, when events were emitted or the relay is to be started.
    wake: Option<&'static Slot>,
    /// Not only new events: the relay is to look at the old ones again.
    reread: bool,
    /// The outbox was paused or resumed.
    pause: bool,
    /// The slot of a database whose settings were changed.
    restart: Option<&'static Slot>,
    /// The launcher is to look into all databases.
    rescan: bool,
}

thread_local! {
    static INTENT: Cell<Intent> = const {
        Cell::new(Intent { wake: None, reread: false, pause: false, restart: None, rescan: false })
    };
}

/// Registers for the ends of this process' transactions; inherited by every backend.
pub fn init() {
    // SAFETY: the callback lives as long as the library, which is never unloaded.
    unsafe { pg_sys::RegisterXactCallback(Some(at_transaction_end), std::ptr::null_mut()) }
}

/// The current transaction emits: wake the relay of this database when it commits, or have one started
/// if there is none (the database may be a copy of one that had it).
pub fn wake_at_commit() {
    // SAFETY: a plain global of this process.
    let database = unsafe { pg_sys::MyDatabaseId };
    let intent = INTENT.get();
    if intent.wake.is_some_and(|slot| slot.database() == database) {
        return;
    }
    INTENT.set(Intent { wake: slots::all().reserve(database), ..intent });
}

/// The current transaction changes events that wait: have the relay of this database read them again.
pub fn reread_at_commit() {
    wake_at_commit();
    INTENT.set(Intent { reread: true, ..INTENT.get() });
}

/// The current transaction pauses or resumes the outbox: have the relay of this database find out which.
pub fn reread_pause_at_commit() {
    wake_at_commit();
    INTENT.set(Intent { pause: true, ..INTENT.get() });
}

/// Wake the relay of this database at commit, if there is one. What was committed may be anything, also that the outbox is
/// paused or resumed.
pub fn wake_if_present_at_commit() {
    // SAFETY: a plain global of this process.
    if let Some(slot) = slots::all().find(unsafe { pg_sys::MyDatabaseId }) {
        INTENT.set(Intent { wake: Some(slot), pause: true, ..INTENT.get() });
    }
}

/// Have the relay of `database` read its settings anew when the current transaction commits.
pub fn restart_at_commit(database: pg_sys::Oid) {
    if let Some(slot) = slots::all().find(database) {
        INTENT.set(Intent { restart: Some(slot), ..INTENT.get() });
    }
}

/// Have the launcher look into all databases when the current transaction commits.
pub fn rescan_at_commit() {
    INTENT.set(Intent { rescan: true, ..INTENT.get() });
}

/// Whether the current transaction has emitted.
#[must_use]
pub fn has_emitted() -> bool {
    INTENT.get().wake.is_some()
}

/// Runs at every end of a transaction in every backend. At commit nothing here may fail: an ERROR
/// would bring the cluster down.
#[pg_guard]
unsafe extern "C-unwind" fn at_transaction_end(event: pg_sys::XactEvent::Type, _argument: *mut c_void) {
    use pg_sys::XactEvent::{XACT_EVENT_ABORT, XACT_EVENT_COMMIT, XACT_EVENT_PREPARE};
    match event {
        XACT_EVENT_COMMIT => {
            // Where a failed command was caught in a subtransaction, nobody has called the relay back.
            vacate::call_back();
            let intent = INTENT.take();
            if let Some(slot) = intent.restart {
                slot.ask(Request::Restart);
            }
            if intent.rescan {
                slots::all().request_rescan();
            }
            if let Some(slot) = intent.wake {
                if intent.reread {
                    slot.reread.store(true, Ordering::Release);
                }
                if intent.pause {
                    slot.paused_changed.store(true, Ordering::Release);
                    // A paused relay ignores its wakeup.
                    slot.wakeup.set_latch();
                }
                // SAFETY: a plain global of this process.
                slots::all().wake(slot, unsafe { pg_sys::MyDatabaseId });
            }
        }
        XACT_EVENT_ABORT | XACT_EVENT_PREPARE => {
            INTENT.set(Intent::default());
            vacate::call_back();
        }
        _ => {}
    }
}
