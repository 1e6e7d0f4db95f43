//! Owns the list by which sessions tell relays which schemas they want. It may lose some: a session that still wants one tells
//! again.
//!
//! Runs in: client backends add, a relay's main thread takes.

use std::sync::atomic::{AtomicU64, Ordering};

use pgrx::prelude::*;
use pgrx::{AssertPGRXSharedMemory, PgAtomic, pg_shmem_init};

use crate::pg::backend;
use crate::pg::shmem::shareable;
use crate::worker::slots;

/// How many schemas can be wanted at a time, in all databases.
const PLACES: usize = 64;

/// Each is a database and an id; 0 for a free place.
#[derive(Default)]
struct Wanted([Place; PLACES / 8]);

type Place = [AtomicU64; 8];

// SAFETY: the name is this extension's own; atomics.
static WANTED: PgAtomic<AssertPGRXSharedMemory<Wanted>> =
    unsafe { PgAtomic::new(c"event_outbox_wanted_schemas") };

/// Requests the shared memory.
pub(super) fn init() {
    pg_shmem_init!(WANTED = shareable(Wanted::default()));
}

fn places() -> impl Iterator<Item = &'static AtomicU64> {
    WANTED.get().0.iter().flatten()
}

fn entry(id: i32) -> u64 {
    u64::from(backend::database().to_u32()) << 32 | u64::from(id.cast_unsigned())
}

/// Tells this database's relay that a session wants the schema with this id.
pub fn tell(id: i32) {
    let entry = entry(id);
    let is_told = places().any(|place| place.load(Ordering::SeqCst) == entry)
        || places().any(|place| place.compare_exchange(0, entry, Ordering::SeqCst, Ordering::SeqCst).is_ok());
    if !is_told && let Some(place) = places().nth(id.unsigned_abs() as usize % PLACES) {
        // The list is full, maybe of what databases want whose relays do not run.
        place.store(entry, Ordering::SeqCst);
    }
    let ours = slots::all().in_use().filter(|(key, _)| key.database == backend::database());
    ours.for_each(|(key, slot)| slots::all().call(slot, key));
}

/// Takes what sessions of this database want.
#[must_use]
pub fn take() -> Vec<i32> {
    let database = u64::from(backend::database().to_u32());
    let taken = places().filter_map(|place| {
        let entry = place.load(Ordering::SeqCst);
        let is_ours = entry != 0 && entry >> 32 == database;
        let is_taken =
            is_ours && place.compare_exchange(entry, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        is_taken.then_some((entry as u32).cast_signed())
    });
    taken.collect()
}

/// Whether sessions of this database want any.
#[must_use]
pub fn is_any() -> bool {
    let database = u64::from(backend::database().to_u32());
    places().any(|place| {
        let entry = place.load(Ordering::SeqCst);
        entry != 0 && entry >> 32 == database
    })
}
