//! Owns the condition on which `outbox.wait_published()` waits.
//!
//! Runs in: relays signal it, client backends wait.

use pgrx::prelude::*;
use pgrx::{AssertPGRXSharedMemory, PgAtomic, pg_shmem_init};

use crate::pg::condition::Condition;
use crate::pg::shmem::shareable;

// SAFETY: the name is this extension's own; Postgres guards the inside with a spin lock of its own.
static PUBLISHED: PgAtomic<AssertPGRXSharedMemory<Condition>> =
    unsafe { PgAtomic::new(c"event_outbox_published") };

/// Requests the shared memory.
pub fn init() {
    pg_shmem_init!(PUBLISHED = shareable(Condition::default()));
}

/// The condition. Relays broadcast it when they have published events.
pub fn condition() -> &'static Condition {
    PUBLISHED.get()
}
