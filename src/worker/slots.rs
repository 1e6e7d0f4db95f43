//! The slots of all workers, and how to wake the launcher. Runs in: every process, in part at commit.

use std::sync::atomic::{AtomicBool, Ordering};

use pgrx::prelude::*;
use pgrx::{AssertPGRXSharedMemory, PgAtomic, PgLwLock, pg_shmem_init};

use super::error_text;
use super::phase::Phase;
use super::slot::Slot;
use super::wakeup::Wakeup;

/// The most databases of one server that can have a relay.
pub const MAX_RELAYS: usize = 64;

// SAFETY: the name is this extension's own. What lies there are atomics, and pointers into the main shared memory,
// which every process maps at the same address.
static SLOTS: PgAtomic<AssertPGRXSharedMemory<WorkerSlots>> = unsafe { PgAtomic::new(c"event_outbox_slots") };
/// Held while a slot is reserved or released.
// SAFETY: as above.
static RESERVATION: PgLwLock<bool> = unsafe { PgLwLock::new(c"event_outbox_reservation") };

/// Requests the shared memory.
pub fn init() {
    pg_shmem_init!(SLOTS = shareable(WorkerSlots::default()));
    pg_shmem_init!(RESERVATION);
    error_text::init();
}

/// A value for shared memory.
pub(super) fn shareable<T>(value: T) -> AssertPGRXSharedMemory<T> {
    // SAFETY: what this extension shares are atomics, numbers, bytes, and in latches and condition variables pointers
    // into the main shared memory: nothing that belongs to one process.
    unsafe { AssertPGRXSharedMemory::new(value) }
}

/// The slots of all workers.
pub fn all() -> &'static WorkerSlots {
    SLOTS.get()
}

/// All workers, and the launcher.
pub struct WorkerSlots {
    /// Wakes the launcher.
    pub launcher: Wakeup,
    rescan_requested: AtomicBool,
    slots: [Slot; MAX_RELAYS],
    settled: pg_sys::ConditionVariable,
}

impl Default for WorkerSlots {
    fn default() -> Self {
        let mut settled = pg_sys::ConditionVariable::default();
        // SAFETY: initialises a value that holds no address of its own, so that it may move afterwards.
        unsafe { pg_sys::ConditionVariableInit(&mut settled) };
        Self {
            launcher: Wakeup::default(),
            rescan_requested: AtomicBool::new(false),
            slots: [const { None::<Slot> }; MAX_RELAYS].map(|_| Slot::default()),
            settled,
        }
    }
}

impl WorkerSlots {
    /// All slots in use.
    pub fn in_use(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().filter(|slot| slot.database() != pg_sys::InvalidOid)
    }

    /// The slot of a database.
    pub fn find(&self, database: pg_sys::Oid) -> Option<&Slot> {
        self.in_use().find(|slot| slot.database() == database)
    }

    /// The slot of a database, reserved now if it has none; `None` if all are taken.
    pub fn reserve(&self, database: pg_sys::Oid) -> Option<&Slot> {
        if let Some(slot) = self.find(database) {
            return Some(slot);
        }
        let _lock = RESERVATION.exclusive();
        if let Some(slot) = self.find(database) {
            return Some(slot);
        }
        let slot = self.slots.iter().find(|slot| slot.database() == pg_sys::InvalidOid)?;
        slot.clear();
        slot.enter(Phase::Requested);
        slot.database.store(database.to_u32(), Ordering::Release);
        Some(slot)
    }

    /// Frees a slot.
    ///
    /// A commit may set its wakeup at this very moment. The commit sets the wakeup and then reads the database; this
    /// clears the database and then reads the wakeup. So one of the two notices the other.
    pub fn release(&self, slot: &Slot) {
        let _lock = RESERVATION.exclusive();
        slot.database.store(0, Ordering::SeqCst);
        if slot.wakeup.is_set() {
            self.rescan_requested.store(true, Ordering::SeqCst);
        }
    }

    /// Wakes the worker of a slot that `database` had; the launcher if no worker runs. Safe at commit.
    pub fn wake(&self, slot: &Slot, database: pg_sys::Oid) {
        slot.wakeup.set();
        if slot.database() != database {
            self.request_rescan();
        } else if !slot.phase().is_alive() {
            self.launcher.set();
        }
    }

    /// Has the launcher examine all databases: any of them may need a worker now. Safe at commit.
    pub fn request_rescan(&self) {
        self.rescan_requested.store(true, Ordering::SeqCst);
        self.launcher.set();
    }

    /// Whether a rescan was requested and is still to be done.
    pub fn rescan_is_pending(&self) -> bool {
        self.rescan_requested.load(Ordering::SeqCst)
    }

    /// Whether a rescan was requested since the last call.
    pub fn take_rescan(&self) -> bool {
        self.rescan_requested.swap(false, Ordering::SeqCst)
    }

    /// Wakes those who wait for events to be published.
    pub fn tell_settled(&self) {
        // SAFETY: initialised with the slots, in shared memory.
        unsafe { pg_sys::ConditionVariableBroadcast(self.settled_ptr()) }
    }

    /// The condition that [`tell_settled`](Self::tell_settled) signals.
    pub fn settled_ptr(&self) -> *mut pg_sys::ConditionVariable {
        // Postgres guards the inside with a spin lock of its own.
        std::ptr::from_ref(&self.settled).cast_mut()
    }
}
