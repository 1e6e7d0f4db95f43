//! Owns the events whose settlement always fails: a foreign key references the row, a trigger raises an error
//! for it, or a rule keeps it.
//!
//! Runs in: a relay's background worker, main thread.
//!
//! They are set aside, like events with locked rows, and keep their places in the window, so that they are
//! not published again. They are retried from time to time, because only people can remove the obstacle.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use event_outbox_policy::backoff::Backoff;
use event_outbox_policy::delivery::bisection::{self, Bisected, Failure};
use event_outbox_policy::delivery::outcome::{Outcome, Report};

use super::Relay;
use crate::worker::transaction::Failed;

/// The first and the longest time between two tries.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// How many transactions one search for the faulty rows may take.
const TRIES: usize = 64;

/// The number of rows for which a search always finds all faulty ones.
const SEARCHABLE: usize = TRIES / 2;

/// How many events can be set aside. If there are more, the relay fails and waits.
const MOST: usize = 10_000;

/// The reports of events whose settlement always fails.
#[derive(Debug)]
pub struct Faulty {
    reports: VecDeque<Report>,
    pause: Backoff,
    most_together: usize,
}

impl Default for Faulty {
    fn default() -> Self {
        Self { reports: VecDeque::new(), pause: Backoff::new(PAUSE.0, PAUSE.1), most_together: usize::MAX }
    }
}

impl Faulty {
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

    /// The number of events that are set aside.
    #[must_use]
    pub fn count(&self) -> usize {
        self.reports.len()
    }

    /// How many reports to settle at a time. It is small while many of them turn out to be faulty.
    #[must_use]
    pub fn most_together(&self) -> usize {
        self.most_together
    }

    /// A batch without faulty events was settled: the next one may be larger.
    pub fn met_none(&mut self) {
        self.most_together = self.most_together.saturating_mul(2);
    }

    /// The ids of the events that are set aside.
    #[must_use]
    pub fn ids(&self) -> HashSet<i64> {
        self.reports.iter().map(|report| report.id).collect()
    }
}

impl Relay {
    /// Retries the events that are set aside, when that is due.
    pub(super) fn retry_faulty(&mut self) {
        if !self.faulty.is_due() || !self.db_backoff.is_over(Instant::now()) {
            return;
        }
        let count = self.faulty.count().min(self.settings.batch_size);
        let batch: Vec<Report> = self.faulty.reports.drain(..count).collect();
        match self.settle_together(batch) {
            Ok(()) => {}
            Err((mut batch, failed)) if failed.can_be_of_rows() => {
                let mut rest = batch.split_off(batch.len().min(SEARCHABLE));
                let result = self.settle_by_bisection(batch, failed);
                rest.extend(result.unsettled);
                // The events that were not tried come first next time.
                rest.into_iter().rev().for_each(|report| self.faulty.reports.push_front(report));
                self.faulty.pause.record_failure(Instant::now());
                self.set_aside(result.faulty, false);
                result.stopped_by.map(|failed| self.note::<()>(Err(failed)));
            }
            Err((batch, failed)) => {
                self.faulty.reports.extend(batch);
                self.note::<()>(Err(failed));
            }
        }
        if self.faulty.reports.is_empty() && self.faulty.pause.record_success() {
            tracing::info!("all events that were set aside are settled");
        }
    }

    /// Handles a batch that could not be settled, perhaps because of some of its rows. Finds those and
    /// settles the others.
    pub(super) fn find_faulty(&mut self, batch: Vec<Report>, failed: Failed) {
        if self.faulty.count() >= MOST {
            batch.into_iter().rev().for_each(|report| self.reports.push_front(report));
            self.note::<()>(Err(failed));
            return;
        }
        let result = self.settle_by_bisection(batch, failed);
        if !result.unsettled.is_empty() {
            self.faulty.most_together = SEARCHABLE;
        }
        self.reports.extend(result.unsettled);
        self.set_aside(result.faulty, true);
        self.note(result.stopped_by.map_or(Ok(()), Err));
    }

    fn settle_by_bisection(&mut self, batch: Vec<Report>, failed: Failed) -> Bisected<Report, Failed> {
        bisection::settle(batch, failed, TRIES, |piece| {
            self.settle_together(piece).map_err(|(piece, failed)| {
                let can_be_of_rows = failed.can_be_of_rows();
                (
                    piece,
                    if can_be_of_rows { Failure::PerhapsRow(failed) } else { Failure::Environment(failed) },
                )
            })
        })
    }

    fn set_aside(&mut self, faulty: Vec<(Report, Failed)>, new: bool) {
        let Some((Report { id, outcome }, failed)) = faulty.first() else { return };
        let (count, what) = (
            faulty.len(),
            match outcome {
                Outcome::Delivered { .. } => "is published, and its row cannot be deleted",
                Outcome::Failed { .. } => "was refused, and that cannot be noted",
            },
        );
        // `outbox.check()` recognizes this text.
        let text = format!("event {id} {what}: {failed}");
        self.slot.show_error(&text);
        if new {
            tracing::warn!("{text}; {count} event(s) are set aside for now, others are settled");
            if self.faulty.reports.is_empty() {
                self.faulty.pause.record_failure(Instant::now());
            }
        }
        for (report, _) in faulty {
            self.keep_waiting(&report);
            self.in_flight.lighten(report.id);
            self.faulty.reports.push_back(report);
        }
    }

    /// Records that the broker has answered for an event whose row cannot be settled. If it was refused,
    /// later events of its key wait.
    pub(super) fn keep_waiting(&mut self, report: &Report) {
        let refused = matches!(report.outcome, Outcome::Failed { .. });
        let again = self.in_flight.answered(report.id, refused);
        self.reader.reread(again);
    }
}
