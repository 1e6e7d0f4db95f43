//! Owns the slots of all workers, and the requests to the launcher.
//!
//! Runs in: any process, also at commit.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use pgrx::prelude::*;
use pgrx::{AssertPGRXSharedMemory, PgAtomic, PgLwLock, pg_shmem_init};

use super::kind::WorkerKey;
use super::phase::Phase;
use super::slot::Slot;
use super::wakeup::Wakeup;
use super::{error_text, registration};
use crate::pg::durability::{AtomicPlace, Place};
use crate::pg::shmem::{SharedArray, shareable};
use crate::settings::workers;

static SLOTS: SharedArray<Slot> = SharedArray::new(c"event_outbox_slots", workers::max_workers);
// SAFETY: the name is this extension's own. What lies there are atomics, and pointers into the main shared
// memory, which every process maps at the same address.
static LAUNCHER: PgAtomic<AssertPGRXSharedMemory<LauncherInbox>> =
    unsafe { PgAtomic::new(c"event_outbox_launcher") };
/// Held while a slot is reserved or freed.
// SAFETY: as above.
static RESERVATION: PgLwLock<bool> = unsafe { PgLwLock::new(c"event_outbox_reservation") };

/// Requests the shared memory.
pub fn init() {
    pg_shmem_init!(SLOTS = ());
    pg_shmem_init!(LAUNCHER = shareable(LauncherInbox::default()));
    pg_shmem_init!(RESERVATION);
    error_text::init();
}

/// The requests to the launcher.
#[derive(Default)]
struct LauncherInbox {
    wakeup: Wakeup,
    rescan_requested: AtomicBool,
    /// A database for which no slot was left; 0 if none.
    left_out: AtomicU32,
    /// The place up to which the log is to be flushed.
    flush: AtomicPlace,
}

/// The slots of all workers.
pub fn all() -> WorkerSlots {
    let launcher: &'static LauncherInbox = LAUNCHER.get();
    WorkerSlots { slots: SLOTS.elements(), launcher: &launcher.wakeup, inbox: launcher }
}

/// All workers, and the launcher.
#[derive(Clone, Copy)]
pub struct WorkerSlots {
    slots: &'static [Slot],
    /// Wakes the launcher.
    pub launcher: &'static Wakeup,
    inbox: &'static LauncherInbox,
}

impl WorkerSlots {
    /// All slots in use, by the worker that each belongs to.
    pub fn in_use(self) -> impl Iterator<Item = (WorkerKey, &'static Slot)> {
        self.slots.iter().filter_map(|slot| Some((slot.key()?, slot)))
    }

    /// Whether all slots are in use.
    pub fn are_in_use(self) -> bool {
        self.slots.iter().all(|slot| slot.key().is_some())
    }

    /// Whether workers other than this one wait for a process.
    pub fn others_wait(self, own: &Slot) -> bool {
        let waits = |slot: &Slot| slot.phase() == Phase::Queued || slot.helpers.short_since() != 0;
        self.in_use().any(|(_, slot)| !std::ptr::eq(slot, own) && waits(slot))
    }

    /// The slots of all workers of a database.
    pub fn of_database(self, database: pg_sys::Oid) -> impl Iterator<Item = &'static Slot> {
        self.in_use().filter(move |(key, _)| key.database == database).map(|(_, slot)| slot)
    }

    /// The slot of a worker.
    pub fn find(self, key: WorkerKey) -> Option<&'static Slot> {
        self.in_use().find(|(owner, _)| *owner == key).map(|(_, slot)| slot)
    }

    /// The slot of a worker, reserved now if it has none; `None` if all are in use.
    pub fn reserve(self, key: WorkerKey) -> Option<&'static Slot> {
        if let Some(slot) = self.find(key) {
            return Some(slot);
        }
        // Without the lock, which else every event would take in a database that has no slot.
        if self.are_in_use() {
            return None;
        }
        let _lock = RESERVATION.exclusive();
        if let Some(slot) = self.find(key) {
            return Some(slot);
        }
        let (at, slot) = self.slots.iter().enumerate().find(|(_, slot)| slot.key().is_none())?;
        slot.reserve(key, at, |slot| {
            if let Some(registration) = registration::of(key.kind) {
                (registration.reserved)(slot);
            }
        });
        Some(slot)
    }

    /// Frees a slot.
    ///
    /// A commit may set its wakeup at this very moment. The commit sets the wakeup and then reads the owner;
    /// this clears the owner and then reads the wakeup. So one of the two notices the other.
    pub fn release(self, slot: &Slot) {
        let _lock = RESERVATION.exclusive();
        slot.free();
        if slot.wakeup.is_set() {
            self.inbox.rescan_requested.store(true, Ordering::SeqCst);
        }
    }

    /// Wakes the worker that the slot belonged to; the launcher if that worker does not run. Safe at commit.
    pub fn wake(self, slot: &Slot, owner: WorkerKey) {
        let is_first = slot.wakeup.set_first();
        if slot.key() != Some(owner) {
            self.request_rescan();
        } else if is_first && !slot.phase().is_alive() {
            // The launcher looks at the wakeup of a worker that ends, so later commits need not tell it again.
            self.launcher.set();
        }
    }

    /// Has the worker of a slot look for a request that it finds by itself. It is started if it sleeps.
    pub fn call(self, slot: &Slot, owner: WorkerKey) {
        if slot.phase().is_alive() {
            slot.wakeup.set_latch();
        } else {
            self.wake(slot, owner);
        }
    }

    /// Has the launcher examine all databases: any of them may need a worker now. Safe at commit.
    pub fn request_rescan(self) {
        self.inbox.rescan_requested.store(true, Ordering::SeqCst);
        self.launcher.set();
    }

    /// Has the launcher flush the log up to this place, so that the caller need not wait for the disk.
    pub fn request_flush(self, place: Place) {
        self.inbox.flush.raise(place);
        self.launcher.set();
    }

    /// Up to which place a flush was requested since the last call.
    pub fn take_flush(self) -> Option<Place> {
        self.inbox.flush.take()
    }

    /// Whether a rescan was requested and is still to be done.
    pub fn rescan_is_pending(self) -> bool {
        self.inbox.rescan_requested.load(Ordering::SeqCst)
    }

    /// Whether a rescan was requested since the last call.
    pub fn take_rescan(self) -> bool {
        self.inbox.rescan_requested.swap(false, Ordering::SeqCst)
    }

    /// Tells the launcher that no slot is left for a database. Safe at commit.
    pub fn leave_out(self, database: pg_sys::Oid) {
        let (left_out, order) = (&self.inbox.left_out, Ordering::SeqCst);
        if left_out.compare_exchange(0, database.to_u32(), order, order).is_ok() {
            self.launcher.set();
        }
    }

    /// The first database that was left out since the last [`take_left_out`](Self::take_left_out).
    pub fn left_out(self) -> Option<pg_sys::Oid> {
        database(self.inbox.left_out.load(Ordering::SeqCst))
    }

    /// Forgets the databases that were left out, of which this is the first.
    pub fn take_left_out(self) -> Option<pg_sys::Oid> {
        database(self.inbox.left_out.swap(0, Ordering::SeqCst))
    }
}

fn database(oid: u32) -> Option<pg_sys::Oid> {
    (oid != 0).then(|| pg_sys::Oid::from(oid))
}
