//! Hearing of changes to tables: what a session remembers of one is void after the invalidation that every change sends
//! at its commit, as it is with Postgres' own caches.

use std::cell::Cell;

use pgrx::prelude::*;

/// The tables of which sessions remember something.
#[derive(Debug, Clone, Copy)]
pub enum Watched {
    /// `outbox.events`
    Events,
    /// `outbox.topic_grants`
    TopicGrants,
}

struct Watch {
    table: Cell<pg_sys::Oid>,
    changes: Cell<u64>,
}

thread_local! {
    static WATCHES: [Watch; 2] = const {
        [const { Watch { table: Cell::new(pg_sys::InvalidOid), changes: Cell::new(0) } }; 2]
    };
}

/// Has invalidations heard of; inherited by every backend.
pub fn init() {
    // SAFETY: the callback lives as long as the library, which is never unloaded.
    unsafe {
        pg_sys::CacheRegisterRelcacheCallback(Some(changed), pg_sys::Datum::from(0_usize));
        let functions = pg_sys::SysCacheIdentifier::PROCOID as std::ffi::c_int;
        pg_sys::CacheRegisterSyscacheCallback(
            functions,
            Some(function_changed),
            pg_sys::Datum::from(0_usize),
        );
    }
}

/// A function was changed: perhaps one that a trigger of `outbox.events` calls.
unsafe extern "C-unwind" fn function_changed(_argument: pg_sys::Datum, _cache: std::ffi::c_int, _hash: u32) {
    WATCHES.with(|watches| {
        let changes = &watches[Watched::Events as usize].changes;
        changes.set(changes.get().wrapping_add(1));
    });
}

/// An invalidation arrived: of one relation, or of all. In the middle of anything, so it only counts.
unsafe extern "C-unwind" fn changed(_argument: pg_sys::Datum, relation: pg_sys::Oid) {
    WATCHES.with(|watches| {
        for watch in watches {
            if relation == pg_sys::InvalidOid || relation == watch.table.get() {
                watch.changes.set(watch.changes.get().wrapping_add(1));
            }
        }
    });
}

impl Watched {
    /// This is its oid from now on.
    pub fn is(self, table: pg_sys::Oid) {
        WATCHES.with(|watches| watches[self as usize].table.set(table));
    }

    /// How many changes this session has heard of. What was read before a higher number is to be read again; to be asked
    /// before reading, so that a change that is heard of meanwhile counts.
    #[must_use]
    pub fn changes(self) -> u64 {
        WATCHES.with(|watches| watches[self as usize].changes.get())
    }
}
