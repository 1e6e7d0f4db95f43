//! Owns the start and the end of a worker's process: it takes its slot, and leaves it.
//!
//! Runs in: a worker's main thread.

use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, Ordering};

use once_cell::sync::OnceCell;
use pgrx::prelude::*;

use super::admin_request;
use super::kind::WorkerKey;
use super::phase::{Phase, Request};
use super::process::{self, Exit};
use super::registration::Registration;
use super::slot::Slot;
use super::{log, slots};
use crate::pg::backend;

/// The slot of this process, for the callback at its end.
static TAKEN: OnceCell<(&'static Registration, &'static Slot)> = OnceCell::new();

/// Whether the database of this process lacks the extension.
static NOT_INSTALLED: AtomicBool = AtomicBool::new(false);

/// Whether this process ends because it has nothing to do.
static ASLEEP: AtomicBool = AtomicBool::new(false);

/// Begins a worker's process: takes its slot, and connects to its database as the bootstrap superuser.
/// `argument` is what the launcher passed to the entry point.
pub fn begin(registration: &'static Registration, argument: pg_sys::Datum) -> &'static Slot {
    let database = pg_sys::Oid::from(argument.value() as u32);
    let key = WorkerKey { database, kind: registration.kind };
    let Some(slot) = slots::all().find(key) else { process::exit(Exit::Done) };
    take_slot(registration, slot);
    process::attach_signals();
    // SAFETY: a background worker that was registered with a database connection, before any other use of the
    // database.
    unsafe { pg_sys::BackgroundWorkerInitializeConnectionByOid(database, pg_sys::InvalidOid, 0) };
    process::show_name(registration.name);
    // Before the worker reads its settings: what it would do by older ones would be undone at once.
    process::reload_if_asked();
    log::init();
    slot
}

/// Says whether the database of this process lacks the extension: then the end of the process frees its slot.
pub fn set_not_installed(is_so: bool) {
    NOT_INSTALLED.store(is_so, Ordering::Relaxed);
}

/// This process ends because it has nothing to do before `wake_at`, in microseconds since 1970, unless it is woken.
pub fn set_asleep(slot: &Slot, wake_at: Option<i64>) {
    slot.wake_at.store(wake_at.unwrap_or(i64::MAX), Ordering::Relaxed);
    ASLEEP.store(true, Ordering::Relaxed);
}

fn take_slot(registration: &'static Registration, slot: &'static Slot) {
    let _ = TAKEN.set((registration, slot));
    process::at_exit(leave_slot);
    slot.pid.store(backend::pid(), Ordering::Relaxed);
    if matches!(slot.request(), Request::Restart | Request::MakeWay) {
        // The settings are about to be read, and this turn has just begun.
        slot.forget_request();
    }
    (registration.started)(slot);
    slot.wakeup.attach();
    slot.advance(Phase::Starting, Phase::Running);
    // The launcher may be waiting to start the next.
    slots::all().launcher.set();
}

/// At the end of the process, however it came: the phase tells the launcher what to do next.
#[pg_guard]
unsafe extern "C-unwind" fn leave_slot(code: c_int, _argument: pg_sys::Datum) {
    let Some((registration, slot)) = TAKEN.get() else { return };
    slot.wakeup.detach();
    slot.pid.store(0, Ordering::Relaxed);
    slot.idle_since.store(0, Ordering::Relaxed);
    slot.helpers.end();
    (registration.ended)(slot);
    admin_request::requests().leave_unanswered(registration.kind);
    let order = slot.order();
    if order == Request::Restart {
        slot.count_restart();
    }
    let next = match order {
        _ if NOT_INSTALLED.load(Ordering::Relaxed) => Phase::NotInstalled,
        Request::Leave => Phase::Vacated,
        Request::Restart => Phase::Requested,
        Request::None | Request::MakeWay if ASLEEP.load(Ordering::Relaxed) => Phase::Asleep,
        Request::MakeWay => Phase::Requested,
        // A worker that is terminated while it starts ends by an error, which is no failure.
        Request::None if code == Exit::Done as c_int || process::stop_requested() => Phase::Exited,
        Request::None => Phase::Failed,
    };
    slot.forget_request();
    slot.enter(next);
    slots::all().launcher.set();
}
