//! Tells those who wait for events that some have arrived.
//!
//! Runs in: ingest workers signal, backends and handlers wait.

use pgrx::prelude::*;
use pgrx::{AssertPGRXSharedMemory, PgAtomic, pg_shmem_init};

use crate::pg::condition::Condition;
use crate::pg::shmem::shareable;

// SAFETY: the name is this extension's own; Postgres guards the inside with a spin lock of its own.
static ARRIVED: PgAtomic<AssertPGRXSharedMemory<Condition>> =
    unsafe { PgAtomic::new(c"event_outbox_inbox_arrived") };

/// Requests the shared memory.
pub fn init() {
    pg_shmem_init!(ARRIVED = shareable(Condition::default()));
}

/// The condition, broadcast when events may be received: some were stored, or an attempt was recorded.
pub fn condition() -> &'static Condition {
    ARRIVED.get()
}
