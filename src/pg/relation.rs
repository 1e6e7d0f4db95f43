//! Owns open relations: they are closed when they go out of scope, and their locks last until the end of the
//! transaction.
//!
//! Runs in: any process with a database.

use pgrx::pg_sys;

/// The lock of a reader.
pub const READ: pg_sys::LOCKMODE = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
/// The lock of who locks rows.
pub const LOCK_ROWS: pg_sys::LOCKMODE = pg_sys::RowShareLock as pg_sys::LOCKMODE;
/// The lock of a writer of rows.
pub const WRITE: pg_sys::LOCKMODE = pg_sys::RowExclusiveLock as pg_sys::LOCKMODE;

/// No lock at all, for reading its catalog entry.
pub const UNLOCKED: pg_sys::LOCKMODE = pg_sys::NoLock as pg_sys::LOCKMODE;

/// An open relation. When an ERROR unwinds, the end of the transaction closes it, and nothing is done here.
#[derive(Debug)]
pub struct OpenRelation(pg_sys::Relation);

impl OpenRelation {
    /// Opens a relation of any kind, in a transaction. An ERROR if there is none.
    #[must_use]
    pub fn open(relation: pg_sys::Oid, lock: pg_sys::LOCKMODE) -> Self {
        // SAFETY: in a transaction, whose end releases what an ERROR leaves open.
        Self(unsafe { pg_sys::relation_open(relation, lock) })
    }

    /// Opens a relation; `None` if there is none.
    #[must_use]
    pub fn try_open(relation: pg_sys::Oid, lock: pg_sys::LOCKMODE) -> Option<Self> {
        // SAFETY: as above; the result is null if there is none.
        let open = unsafe { pg_sys::try_relation_open(relation, lock) };
        (!open.is_null()).then(|| Self(open))
    }

    /// The relation, open as long as `self`.
    #[must_use]
    pub fn raw(&self) -> pg_sys::Relation {
        self.0
    }

    /// Its relcache entry.
    #[must_use]
    pub fn data(&self) -> &pg_sys::RelationData {
        // SAFETY: the relation is open.
        unsafe { &*self.0 }
    }

    /// Its row in `pg_class`.
    #[must_use]
    pub fn class(&self) -> &pg_sys::FormData_pg_class {
        // SAFETY: an open relation has one.
        unsafe { &*self.data().rd_rel }
    }

    /// How many pages it has.
    #[must_use]
    pub fn blocks(&self) -> u32 {
        // SAFETY: the relation is open.
        unsafe { pg_sys::RelationGetNumberOfBlocksInFork(self.0, pg_sys::ForkNumber::MAIN_FORKNUM) }
    }
}

impl Drop for OpenRelation {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: pairs with `open`; the lock is kept.
            unsafe { pg_sys::relation_close(self.0, pg_sys::NoLock as pg_sys::LOCKMODE) }
        }
    }
}
