//! What is visible is not always durable, and only what is durable may be told to the world.
//!
//! A transaction with `synchronous_commit = off` is visible before its commit is on disk; one with `local`, or whose wait
//! was cancelled, before it is on the standbys that `synchronous_standby_names` requires. After a crash or a failover it
//! never was.
//!
//! Postgres keeps, for groups of transactions, the place in the log up to which an asynchronous commit among them is not
//! on disk by itself; and none for what was on disk before it became visible. So a flush up to there costs nothing where all
//! commit synchronously.

use pgrx::prelude::*;

use super::compat;

/// A place in the write-ahead log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(pg_sys::XLogRecPtr);

/// So many transactions share a place in Postgres' memory of asynchronous commits, or more: its `CLOG_XACTS_PER_LSN_GROUP`.
const GROUP: u32 = 32;

/// What must be durable before the rows of a pass may be published.
#[derive(Debug)]
pub struct Commits {
    /// The end of the log when the pass began, if not all of it was on disk.
    unflushed: Option<Place>,
    /// What was on disk then.
    flushed: Place,
    group: Option<u32>,
    /// All commits of the rows met lie below.
    end: Place,
}

impl Commits {
    /// Of a pass whose snapshot has just been taken.
    #[must_use]
    pub fn of_pass() -> Self {
        // SAFETY: reads what lies in shared memory.
        let (inserted, needs_flush, flushed) = unsafe {
            let inserted = pg_sys::GetXLogInsertRecPtr();
            let needs_flush = pg_sys::XLogNeedsFlush(inserted);
            (Place(inserted), needs_flush, Place(pg_sys::GetFlushRecPtr(std::ptr::null_mut())))
        };
        Self { unflushed: needs_flush.then_some(inserted), flushed, group: None, end: Place::default() }
    }

    /// Whether the transactions of rows matter at all.
    #[must_use]
    pub fn matter(&self) -> bool {
        self.unflushed.is_some()
    }

    /// A row is to be published that this transaction has written; `None` if the table does not say which.
    pub fn add(&mut self, xid: Option<pg_sys::TransactionId>) {
        let Some(end_of_log) = self.unflushed else { return };
        let Some(xid) = xid else {
            self.end = end_of_log;
            return;
        };
        if xid <= pg_sys::FrozenTransactionId {
            return;
        }
        let group = xid.into_inner() / GROUP;
        if self.group != Some(group) {
            self.group = Some(group);
            // SAFETY: of a transaction that a visible row names, and so is known to have committed.
            self.end = self.end.max(Place(unsafe { pg_sys::TransactionIdGetCommitLSN(xid) }));
        }
    }

    /// Has all commits on disk; an ERROR if that cannot be. Gives what the standbys must have, if any are required.
    #[must_use]
    pub fn flush(&self) -> Option<Place> {
        if self.end > Place::default() {
            // SAFETY: a place in the log that has been written to.
            unsafe { pg_sys::XLogFlush(self.end.0) };
        }
        // Commits that wait for the disk are in what was flushed when they were visible.
        are_standbys_required().then(|| self.flushed.max(self.end))
    }
}

/// Whether commits have to be on standbys.
#[must_use]
pub fn are_standbys_required() -> bool {
    // SAFETY: settings of this process; a string setting is a C string or null.
    unsafe {
        let names = pg_sys::SyncRepStandbyNames;
        pg_sys::max_wal_senders > 0 && !names.is_null() && *names != 0
    }
}

/// Whether the standbys that are required have the log on disk up to there.
#[must_use]
pub fn is_on_standbys(place: Place) -> bool {
    !are_standbys_required() || Place(compat::flushed_by_standbys()) >= place
}
