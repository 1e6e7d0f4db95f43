//! Tells those who wait for events that some have arrived.
//!
//! Runs in: ingest workers signal, backends and handlers wait.

use std::sync::atomic::{AtomicBool, Ordering};

use pgrx::prelude::*;
use pgrx::{AssertPGRXSharedMemory, PgAtomic, pg_shmem_init};

use crate::pg::condition::Condition;
use crate::pg::shmem::{SharedArray, shareable};

// SAFETY: the name is this extension's own; Postgres guards the inside with a spin lock of its own.
static ARRIVED: PgAtomic<AssertPGRXSharedMemory<Condition>> =
    unsafe { PgAtomic::new(c"event_outbox_inbox_arrived") };

/// Whether a session that may be about to sleep has found a lane locked.
static TURNED_AWAY: SharedArray<AtomicBool> = SharedArray::new(c"event_outbox_inbox_turned_away", || 1);

/// Requests the shared memory.
pub fn init() {
    pg_shmem_init!(ARRIVED = shareable(Condition::default()));
    pg_shmem_init!(TURNED_AWAY = ());
}

/// The condition, broadcast when events may be received: some were stored, or an attempt was recorded.
pub fn condition() -> &'static Condition {
    ARRIVED.get()
}

/// A lane was found locked. Whoever frees one from now on wakes those who sleep: so try once more before sleeping.
pub fn turned_away() {
    TURNED_AWAY.elements().iter().for_each(|flag| flag.store(true, Ordering::SeqCst));
}

/// Lanes were freed, and their locks are released. Wakes those who sleep, if any may have found them locked.
pub fn lanes_freed() {
    if TURNED_AWAY
        .elements()
        .iter()
        .any(|flag| flag.load(Ordering::SeqCst) && flag.swap(false, Ordering::SeqCst))
    {
        condition().broadcast();
    }
}
