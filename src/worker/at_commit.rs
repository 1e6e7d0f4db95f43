//! Owns the wakeups at commit: a transaction records its notices to workers, and sends them when it commits.
//!
//! Runs in: client backends.
//!
//! Not by NOTIFY: that takes a lock at commit that serialises all writers, and forbids PREPARE TRANSACTION.
//! Between a commit and the worker there are a variable of the backend, an atomic and a latch.
//!
//! Any capability can use it: a worker of any kind is woken and receives [`Notice`]s, whose meaning only that
//! kind knows. A list of closures could do no more, and each closure would have to be proven infallible.

use std::cell::Cell;
use std::ffi::c_void;

use pgrx::prelude::*;

use super::kind::{Kind, MAX_KINDS, Notice, WorkerKey};
use super::phase::Request;
use super::slot::Slot;
use super::{registration, slots, vacate};

/// A worker of this database that is to be woken.
#[derive(Clone, Copy)]
struct Wake {
    slot: &'static Slot,
    key: WorkerKey,
    notice: Notice,
}

/// What the current transaction will do when it commits. A subtransaction's rollback does not take it back:
/// to wake a worker for nothing is harmless.
struct Pending {
    /// By kind.
    wakes: [Cell<Option<Wake>>; MAX_KINDS],
    restart: Cell<Restart>,
    /// The launcher is to examine all databases.
    rescan: Cell<bool>,
}

/// The databases whose workers must restart. Plain data, since a value with a destructor could be gone when a
/// process ends.
#[derive(Clone, Copy, Default)]
enum Restart {
    #[default]
    None,
    /// Those of the database whose settings were changed.
    Of(pg_sys::Oid),
    /// The settings of several databases were changed: all workers.
    All,
}

thread_local! {
    static PENDING: Pending = const {
        Pending {
            wakes: [const { Cell::new(None) }; MAX_KINDS],
            restart: Cell::new(Restart::None),
            rescan: Cell::new(false),
        }
    };
}

thread_local! {
    /// The slots that this session has found, by kind, so that an event does not search through those of all databases.
    static KNOWN: [Cell<Option<&'static Slot>>; MAX_KINDS] = const { [const { Cell::new(None) }; MAX_KINDS] };
}

/// The slot that this session has found for a worker, if it still belongs to it.
fn known(key: WorkerKey) -> Option<&'static Slot> {
    KNOWN.with(|known| known[key.kind.index()].get()).filter(|slot| slot.key() == Some(key))
}

/// Registers for the ends of this process' transactions; inherited by every backend.
pub fn init() {
    // SAFETY: the callback lives as long as the library, which is never unloaded.
    unsafe { pg_sys::RegisterXactCallback(Some(at_transaction_end), std::ptr::null_mut()) }
}

/// Wakes the worker of this kind in this database at commit, and tells it `notice`. If the database has none
/// (it may be a copy of one that had), one is started.
pub fn wake(kind: Kind, notice: Notice) {
    let key = WorkerKey::here(kind);
    PENDING.with(|pending| {
        let pending = &pending.wakes[kind.index()];
        match pending.get() {
            Some(wake) if wake.slot.key() == Some(key) => {
                if notice != Notice::NONE {
                    pending.set(Some(Wake { notice: wake.notice.and(notice), ..wake }));
                }
            }
            lost => {
                let notice = lost.map_or(notice, |wake| wake.notice.and(notice));
                let slot = known(key).or_else(|| slots::all().reserve(key));
                KNOWN.with(|known| known[kind.index()].set(slot));
                if slot.is_none() {
                    slots::all().leave_out(key.database);
                }
                pending.set(slot.map(|slot| Wake { slot, key, notice }));
            }
        }
    });
}

/// Whether the current transaction will wake the worker of this kind.
#[must_use]
pub fn will_wake(kind: Kind) -> bool {
    PENDING.with(|pending| pending.wakes[kind.index()].get().is_some())
}

/// Wakes the workers that each database has in this one at commit, and has those started that it lacks.
pub fn wake_all() {
    registration::of_each_database().for_each(|registration| wake(registration.kind, Notice::NONE));
}

/// Wakes those workers of this database at commit that there are. The commit may change anything that
/// concerns them.
pub fn wake_present() {
    for registration in registration::all() {
        if slots::all().find(WorkerKey::here(registration.kind)).is_some() {
            wake(registration.kind, registration.after_any_change);
        }
    }
}

/// Restarts all workers of `database` at commit, so that they read its settings again.
pub fn restart(database: pg_sys::Oid) {
    PENDING.with(|pending| {
        pending.restart.set(match pending.restart.get() {
            Restart::Of(other) if other != database => Restart::All,
            Restart::All => Restart::All,
            Restart::None | Restart::Of(_) => Restart::Of(database),
        });
    });
}

/// Has the launcher examine all databases at commit.
pub fn rescan() {
    PENDING.with(|pending| pending.rescan.set(true));
}

impl Pending {
    /// Tells the workers. Cannot fail: atomics and latches.
    fn carry_out(&self) {
        let slots = slots::all();
        let restart = self.restart.take();
        match restart {
            Restart::None => {}
            Restart::Of(database) => slots.of_database(database).for_each(|slot| slot.ask(Request::Restart)),
            Restart::All => slots.in_use().for_each(|(_, slot)| slot.ask(Request::Restart)),
        }
        if !matches!(restart, Restart::None) {
            // It starts those that sleep.
            slots.launcher.set();
        }
        if self.rescan.take() {
            slots.request_rescan();
        }
        for Wake { slot, key, notice } in self.wakes.iter().filter_map(Cell::take) {
            if notice != Notice::NONE {
                slot.notify(notice);
            }
            slots.wake(slot, key);
        }
    }

    fn forget(&self) {
        self.wakes.iter().for_each(|wake| wake.set(None));
        self.restart.set(Restart::None);
        self.rescan.set(false);
    }
}

/// Runs at every end of a transaction in every backend. At commit nothing here may fail: an ERROR would bring
/// the cluster down.
#[pg_guard]
unsafe extern "C-unwind" fn at_transaction_end(event: pg_sys::XactEvent::Type, _argument: *mut c_void) {
    use pg_sys::XactEvent::{XACT_EVENT_ABORT, XACT_EVENT_COMMIT, XACT_EVENT_PREPARE};
    match event {
        XACT_EVENT_COMMIT => {
            // If a failed command was caught in a subtransaction, nobody has called the workers back.
            vacate::call_back();
            PENDING.with(Pending::carry_out);
        }
        XACT_EVENT_ABORT | XACT_EVENT_PREPARE => {
            PENDING.with(Pending::forget);
            vacate::call_back();
        }
        _ => {}
    }
}
