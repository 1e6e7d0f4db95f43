//! Tells those who wait in `outbox.wait_published()` that events were published. Runs in: relays signal, backends wait.

use pgrx::prelude::*;
use pgrx::{AssertPGRXSharedMemory, PgAtomic, pg_shmem_init};

use crate::pg::shmem::shareable;

// SAFETY: the name is this extension's own; Postgres guards the inside with a spin lock of its own.
static PUBLISHED: PgAtomic<AssertPGRXSharedMemory<pg_sys::ConditionVariable>> =
    unsafe { PgAtomic::new(c"event_outbox_published") };

/// Requests the shared memory.
pub fn init() {
    pg_shmem_init!(PUBLISHED = shareable(new()));
}

fn new() -> pg_sys::ConditionVariable {
    let mut condition = pg_sys::ConditionVariable::default();
    // SAFETY: initialises a value that holds no address of its own, so that it may move afterwards.
    unsafe { pg_sys::ConditionVariableInit(&mut condition) };
    condition
}

/// Wakes those who wait.
pub fn broadcast() {
    // SAFETY: initialised, in shared memory.
    unsafe { pg_sys::ConditionVariableBroadcast(condition()) }
}

/// What [`broadcast`] signals.
pub fn condition() -> *mut pg_sys::ConditionVariable {
    std::ptr::from_ref::<pg_sys::ConditionVariable>(PUBLISHED.get()).cast_mut()
}
