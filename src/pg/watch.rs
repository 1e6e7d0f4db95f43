//! Owns watches over tables: a session that caches facts of a table learns of each change to it, through the
//! invalidations that Postgres' own caches use.
//!
//! Runs in: any process with a database.

use std::ffi::c_int;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use pgrx::prelude::*;

/// A table that this process watches. Each process has its own count, since none is in shared memory.
#[derive(Debug)]
pub struct Watch {
    table: AtomicU32,
    changes: AtomicU64,
    functions_matter: bool,
}

impl Watch {
    /// Over a table that is named later.
    #[must_use]
    pub const fn over_table() -> Self {
        Self { table: AtomicU32::new(0), changes: AtomicU64::new(0), functions_matter: false }
    }

    /// And over all functions, of which the table's triggers may call some.
    #[must_use]
    pub const fn and_functions(self) -> Self {
        Self { functions_matter: true, ..self }
    }

    /// Watches this table from now on.
    pub fn set_table(&self, table: pg_sys::Oid) {
        self.table.store(table.to_u32(), Ordering::Relaxed);
    }

    /// How many changes this process has received. Data read at a lower number must be read again. Ask before
    /// reading, so that a change that arrives meanwhile counts.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    fn count_change(&self) {
        self.changes.fetch_add(1, Ordering::Relaxed);
    }
}

static WATCHES: OnceLock<Vec<&'static Watch>> = OnceLock::new();

/// How many counts all relations share.
const COUNTS: usize = 64;

/// How many changes this process has received, by relation. Several share a count: a count that grew for another
/// relation only makes something be read again.
static CHANGES: [AtomicU64; COUNTS] = [const { AtomicU64::new(0) }; COUNTS];

/// How many changes of any kind this process has received of a relation. Data read at a lower number must be read again.
#[must_use]
pub fn changes_of(relation: pg_sys::Oid) -> u64 {
    count_of(relation.to_u32()).load(Ordering::Relaxed)
}

fn count_of(relation: u32) -> &'static AtomicU64 {
    &CHANGES[relation as usize % COUNTS]
}

/// Registers all watches, in the postmaster; every backend inherits them.
pub fn init(watches: impl Iterator<Item = &'static Watch>) {
    if WATCHES.set(watches.collect()).is_err() {
        return;
    }
    // SAFETY: the callbacks live as long as the library, which is never unloaded.
    unsafe {
        pg_sys::CacheRegisterRelcacheCallback(Some(relation_changed), pg_sys::Datum::from(0_usize));
        let functions = pg_sys::SysCacheIdentifier::PROCOID as c_int;
        pg_sys::CacheRegisterSyscacheCallback(
            functions,
            Some(function_changed),
            pg_sys::Datum::from(0_usize),
        );
    }
}

fn watches() -> impl Iterator<Item = &'static Watch> {
    WATCHES.get().into_iter().flatten().copied()
}

/// A function was changed.
unsafe extern "C-unwind" fn function_changed(_argument: pg_sys::Datum, _cache: c_int, _hash: u32) {
    watches().filter(|watch| watch.functions_matter).for_each(Watch::count_change);
}

/// An invalidation arrived: of one relation, or of all. It can come in the middle of anything, so this only
/// counts.
unsafe extern "C-unwind" fn relation_changed(_argument: pg_sys::Datum, relation: pg_sys::Oid) {
    let relation = relation.to_u32();
    watches()
        .filter(|watch| relation == 0 || relation == watch.table.load(Ordering::Relaxed))
        .for_each(Watch::count_change);
    let grow = |count: &AtomicU64| {
        count.fetch_add(1, Ordering::Relaxed);
    };
    match relation {
        0 => CHANGES.iter().for_each(grow),
        relation => grow(count_of(relation)),
    }
}
