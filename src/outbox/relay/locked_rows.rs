//! Owns the events whose rows other sessions have locked: they are published, but not deleted before the
//! locks are released.
//!
//! Runs in: a relay's background worker, main thread.
//!
//! A locked row would block the whole batch that is settled with it. So once a settlement has met one, it
//! settles the free rows and leaves the others for later. These keep their places in the window, so that they
//! are not published again.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use event_outbox_policy::backoff::Backoff;
use event_outbox_policy::delivery::outcome::Report;

/// The first and the longest time between two tries to settle locked rows.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

/// The reports of events whose rows are locked.
#[derive(Debug)]
pub struct LockedRows {
    reports: Vec<Report>,
    pause: Backoff,
}

impl Default for LockedRows {
    fn default() -> Self {
        Self { reports: Vec::new(), pause: Backoff::new(PAUSE.0, PAUSE.1) }
    }
}

impl LockedRows {
    /// Whether settlements must skip locked rows, because some were met and are not all free again.
    #[must_use]
    pub fn skips_locked(&self) -> bool {
        self.pause.until().is_some()
    }

    /// Whether a retry is due.
    #[must_use]
    pub fn is_due(&self) -> bool {
        !self.reports.is_empty() && self.pause.is_over(Instant::now())
    }

    /// When the next retry is due.
    #[must_use]
    pub fn until(&self) -> Option<Instant> {
        self.pause.until().filter(|_| !self.reports.is_empty())
    }

    /// The number of events with locked rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.reports.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.reports.is_empty()
    }

    /// The ids of the events with locked rows.
    #[must_use]
    pub fn ids(&self) -> HashSet<i64> {
        self.reports.iter().map(|report| report.id).collect()
    }

    /// Moves the reports to the front of `reports`, to be settled with the others.
    pub fn put_back(&mut self, reports: &mut VecDeque<Report>) {
        self.reports.drain(..).rev().for_each(|report| reports.push_front(report));
    }

    /// Keeps the reports that a settlement has skipped. Returns whether they are the first.
    pub fn keep(&mut self, locked: Vec<Report>) -> bool {
        let met = !locked.is_empty();
        self.reports.extend(locked);
        if self.reports.is_empty() {
            self.pause.record_success();
        }
        met && self.pause.record_failure(Instant::now())
    }
}
