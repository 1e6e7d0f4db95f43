//! Owns the durability of visible rows: only durable changes may be published.
//!
//! Runs in: a worker's main thread.
//!
//! A transaction with `synchronous_commit = off` becomes visible before its commit is on disk. With `local`,
//! or after a cancelled wait, it becomes visible before the standbys of `synchronous_standby_names` have it.
//! A crash or a failover can then undo it.
//!
//! For each group of transactions, Postgres keeps the place in the log of the last asynchronous commit among
//! them, and none if all were on disk before they became visible. So a flush up to that place costs nothing
//! if all commits are synchronous.

use std::sync::atomic::{AtomicU64, Ordering};

use pgrx::prelude::*;

use super::compat;

/// A place in the write-ahead log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(pg_sys::XLogRecPtr);

/// A place in shared memory that only grows.
#[derive(Debug, Default)]
pub struct AtomicPlace(AtomicU64);

impl AtomicPlace {
    /// Sets it to this place, unless it is beyond already.
    pub fn raise(&self, place: Place) {
        self.0.fetch_max(place.0, Ordering::AcqRel);
    }

    /// Takes the place, if it was raised since the last call.
    pub fn take(&self) -> Option<Place> {
        Some(self.0.swap(0, Ordering::AcqRel)).filter(|place| *place > 0).map(Place)
    }
}

impl Place {
    /// The end of this process's last commit.
    #[must_use]
    pub fn of_last_commit() -> Self {
        // SAFETY: reads a variable of this process.
        Self(unsafe { pg_sys::XactLastCommitEnd })
    }
}

impl Place {
    /// The end of the log: all that is visible now lies before it.
    #[must_use]
    pub fn of_log_end() -> Self {
        // SAFETY: reads shared memory.
        Self(unsafe { pg_sys::GetXLogInsertRecPtr() })
    }

    /// Whether the log is on disk up to here, and on the required standbys.
    #[must_use]
    pub fn is_durable(self) -> bool {
        // SAFETY: reads shared memory.
        let is_flushed = unsafe { pg_sys::GetFlushRecPtr(std::ptr::null_mut()) } >= self.0;
        is_flushed && is_on_standbys(self)
    }
}

/// At least this many transactions share a place in Postgres' record of asynchronous commits
/// (`CLOG_XACTS_PER_LSN_GROUP`).
const GROUP: u32 = 32;

/// The commits that must be durable before the rows of a pass may be published.
#[derive(Debug)]
pub struct Commits {
    /// The end of the log when the pass began, if not all of it was on disk.
    unflushed: Option<Place>,
    /// The end of the log on disk at that time.
    flushed: Place,
    group: Option<u32>,
    /// All commits of the rows that were read lie below.
    end: Place,
}

/// Flushes the log to disk up to this place, if that has not happened yet. An ERROR if it fails.
pub fn flush(place: Place) {
    // SAFETY: a place up to which the log has been written.
    unsafe { pg_sys::XLogFlush(place.0) }
}

/// The current transaction is on disk when its commit returns, whatever `synchronous_commit` says.
pub fn force_sync_commit() {
    // SAFETY: sets a flag of the transaction.
    unsafe { pg_sys::ForceSyncCommit() }
}

impl Commits {
    /// Starts a pass whose snapshot has just been taken.
    #[must_use]
    pub fn of_pass() -> Self {
        // SAFETY: reads shared memory.
        let (inserted, needs_flush, flushed) = unsafe {
            let inserted = pg_sys::GetXLogInsertRecPtr();
            let needs_flush = pg_sys::XLogNeedsFlush(inserted);
            (Place(inserted), needs_flush, Place(pg_sys::GetFlushRecPtr(std::ptr::null_mut())))
        };
        Self { unflushed: needs_flush.then_some(inserted), flushed, group: None, end: Place::default() }
    }

    /// Whether the transactions of rows matter at all; if not, everything is durable.
    #[must_use]
    pub fn matter(&self) -> bool {
        self.unflushed.is_some()
    }

    /// Adds the transaction that wrote a row to be published; `None` if the table does not say which.
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
            // SAFETY: a visible row names the transaction, so it has committed.
            self.end = self.end.max(Place(unsafe { pg_sys::TransactionIdGetCommitLSN(xid) }));
        }
    }

    /// Flushes all commits to disk; an ERROR if that fails. Returns the place that the standbys must have, if
    /// standbys are required.
    #[must_use]
    pub fn flush(&self) -> Option<Place> {
        if self.end > Place::default() {
            // SAFETY: a place up to which the log has been written.
            unsafe { pg_sys::XLogFlush(self.end.0) };
        }
        // Synchronous commits were flushed before they became visible.
        are_standbys_required().then(|| self.flushed.max(self.end))
    }
}

/// Whether commits must be on standbys.
#[must_use]
pub fn are_standbys_required() -> bool {
    // SAFETY: settings of this process; a string setting is a C string or null.
    unsafe {
        let names = pg_sys::SyncRepStandbyNames;
        pg_sys::max_wal_senders > 0 && !names.is_null() && *names != 0
    }
}

/// Whether all required standbys have the log on disk up to this place.
#[must_use]
pub fn is_on_standbys(place: Place) -> bool {
    !are_standbys_required() || Place(compat::flushed_by_standbys()) >= place
}
