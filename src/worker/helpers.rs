//! Owns what the launcher knows of the helpers of a worker: the further processes that it starts for its work.
//!
//! Runs in: any process.
//!
//! A worker starts its helpers by itself. If it has no process for one of its tasks, it waits in the launcher's queue like a
//! worker that has none at all, and when it is its turn, the launcher offers it what is free.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};

/// The helpers of one worker. Times are in microseconds since 1970.
#[derive(Default)]
pub struct Helpers {
    /// How many tasks each need one process at least, as far as is known. It outlives the worker's process.
    tasks: AtomicU32,
    /// How many of them have none, because Postgres has no background worker left.
    lacking: AtomicU32,
    /// Since when the worker has waited for a process for one of them; 0 if it does not.
    short_since: AtomicI64,
    /// When it last had got a process for each.
    complete_since: AtomicI64,
    /// The launcher offers it what is free, and it has not tried yet.
    is_offered: AtomicBool,
}

impl Helpers {
    /// Shows how many tasks there are, and how many have no process. If fewer than before, the wait begins anew, behind others.
    /// Returns whether that concerns the launcher.
    pub fn show(&self, tasks: usize, lacking: usize) -> bool {
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        self.tasks.store(number(tasks), Ordering::Relaxed);
        let before = self.lacking.swap(number(lacking), Ordering::Relaxed);
        let now = crate::pg::now();
        if lacking == 0 {
            let was_short = self.short_since.swap(0, Ordering::Relaxed) != 0;
            if was_short {
                self.complete_since.store(now, Ordering::Relaxed);
            }
            return was_short;
        }
        let is_new = self.short_since() == 0 || number(lacking) < before;
        if is_new {
            self.short_since.store(now, Ordering::Relaxed);
        }
        is_new
    }

    /// Since when the worker has waited for a process for a task; 0 if it does not.
    pub fn short_since(&self) -> i64 {
        self.short_since.load(Ordering::Relaxed)
    }

    /// When it last had got a process for each task; 0 if it has not waited for one.
    pub fn complete_since(&self) -> i64 {
        self.complete_since.load(Ordering::Relaxed)
    }

    /// The worker, which starts now and has waited since then, will need further processes: it keeps its place in the queue.
    /// Returns whether that is so.
    pub(super) fn expect(&self, since: i64) -> bool {
        let tasks = self.tasks.load(Ordering::Relaxed);
        if tasks > 0 {
            self.lacking.store(tasks, Ordering::Relaxed);
            self.short_since.store(since, Ordering::Relaxed);
            self.is_offered.store(true, Ordering::Relaxed);
        }
        tasks > 0
    }

    /// Offers what is free.
    pub(super) fn offer(&self) {
        self.is_offered.store(true, Ordering::Relaxed);
    }

    /// Whether an offer was not taken up yet.
    pub(super) fn is_offered(&self) -> bool {
        self.is_offered.load(Ordering::Relaxed)
    }

    /// Takes up an offer; whether there was one.
    pub fn take_offer(&self) -> bool {
        self.is_offered.swap(false, Ordering::Relaxed)
    }

    /// The worker's process ends, and its helpers do.
    pub(super) fn end(&self) {
        self.lacking.store(0, Ordering::Relaxed);
        self.short_since.store(0, Ordering::Relaxed);
        self.complete_since.store(0, Ordering::Relaxed);
        self.is_offered.store(false, Ordering::Relaxed);
    }

    /// The slot is for another worker.
    pub(super) fn forget(&self) {
        self.tasks.store(0, Ordering::Relaxed);
        self.end();
    }
}
