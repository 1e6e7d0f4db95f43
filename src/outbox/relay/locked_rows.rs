//! Events whose rows other sessions have locked: published, and not deleted before those let go.
//!
//! A locked row would hold up the whole batch that it is settled in. So once a settlement has met one, it
//! takes the rows that are free and leaves the others for later; they keep their place in the window, lest
//! they be published again.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use event_outbox_policy::backoff::Backoff;
use event_outbox_policy::delivery::outcome::Report;

/// First and longest time between two looks at rows that others have locked.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

/// Reports of events whose rows are locked.
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
    /// Whether locked rows were met and are not all free again: settlements are to mind them.
    #[must_use]
    pub fn skips_locked(&self) -> bool {
        self.pause.until().is_some()
    }

    /// Whether it is time to look whether the rows are free.
    #[must_use]
    pub fn is_due(&self) -> bool {
        !self.reports.is_empty() && self.pause.is_over(Instant::now())
    }

    /// When it will be.
    #[must_use]
    pub fn until(&self) -> Option<Instant> {
        self.pause.until().filter(|_| !self.reports.is_empty())
    }

    /// How many rows are locked.
    #[must_use]
    pub fn len(&self) -> usize {
        self.reports.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.reports.is_empty()
    }

    /// The events whose rows are locked.
    #[must_use]
    pub fn ids(&self) -> HashSet<i64> {
        self.reports.iter().map(|report| report.id).collect()
    }

    /// Puts the reports in front of others, to be settled with them.
    pub fn put_back(&mut self, reports: &mut VecDeque<Report>) {
        self.reports.drain(..).rev().for_each(|report| reports.push_front(report));
    }

    /// A settlement that minded locked rows has met these; says whether they are the first.
    pub fn keep(&mut self, locked: Vec<Report>) -> bool {
        let met = !locked.is_empty();
        self.reports.extend(locked);
        if self.reports.is_empty() {
            self.pause.record_success();
        }
        met && self.pause.record_failure(Instant::now())
    }
}
