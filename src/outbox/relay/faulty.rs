//! Events whose rows cannot be settled, whatever is tried: a foreign key refers to one, a trigger raises for
//! it, a rule keeps it.
//!
//! They are set aside, as those are whose rows are locked, and keep their place in the window, lest they be
//! published again. From time to time they are tried anew, since only people can remove what is in the way.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use event_outbox_policy::backoff::Backoff;
use event_outbox_policy::delivery::bisection::{self, Bisected, Failure};
use event_outbox_policy::delivery::outcome::{Outcome, Report};

use super::Relay;
use crate::worker::transaction::Failed;

/// First and longest time between two tries.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Transactions that may be spent at a time on finding out which rows are to blame.
const TRIES: usize = 64;

/// Of so many it can be found out for each.
const SEARCHABLE: usize = TRIES / 2;

/// The most rows set aside: with more of them in the way, the relay fails and waits.
const MOST: usize = 10_000;

/// Reports of events whose rows cannot be settled.
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
    /// Whether it is time to try them again.
    #[must_use]
    pub fn is_due(&self) -> bool {
        !self.reports.is_empty() && self.pause.is_over(Instant::now())
    }

    /// When it will be.
    #[must_use]
    pub fn until(&self) -> Option<Instant> {
        self.pause.until().filter(|_| !self.reports.is_empty())
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.reports.len()
    }

    /// How many to settle at a time: few, while many of them turn out to be faulty.
    #[must_use]
    pub fn most_together(&self) -> usize {
        self.most_together
    }

    /// A batch was settled that was without any.
    pub fn met_none(&mut self) {
        self.most_together = self.most_together.saturating_mul(2);
    }

    /// The events whose rows they are.
    #[must_use]
    pub fn ids(&self) -> HashSet<i64> {
        self.reports.iter().map(|report| report.id).collect()
    }
}

impl Relay {
    /// Tries those again that are set aside, when it is time to.
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
                let result = self.settle_apart(batch, failed);
                rest.extend(result.unsettled);
                // Those that were not tried come first next time.
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
            tracing::info!("all rows that could not be settled are settled");
        }
    }

    /// These could not be settled together, and it may be the fault of some: the others go on.
    pub(super) fn find_faulty(&mut self, batch: Vec<Report>, failed: Failed) {
        if self.faulty.count() >= MOST {
            batch.into_iter().rev().for_each(|report| self.reports.push_front(report));
            self.note::<()>(Err(failed));
            return;
        }
        let result = self.settle_apart(batch, failed);
        if !result.unsettled.is_empty() {
            self.faulty.most_together = SEARCHABLE;
        }
        self.reports.extend(result.unsettled);
        self.set_aside(result.faulty, true);
        self.note(result.stopped_by.map_or(Ok(()), Err));
    }

    fn settle_apart(&mut self, batch: Vec<Report>, failed: Failed) -> Bisected<Report, Failed> {
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

    fn set_aside(&mut self, guilty: Vec<(Report, Failed)>, new: bool) {
        let Some((Report { id, outcome }, failed)) = guilty.first() else { return };
        let (count, what) = (
            guilty.len(),
            match outcome {
                Outcome::Delivered { .. } => "is published, and its row cannot be deleted",
                Outcome::Failed { .. } => "was refused, and that cannot be noted",
            },
        );
        // By which `outbox.check()` finds it.
        let text = format!("event {id} {what}: {failed}");
        self.slot.show_error(&text);
        if new {
            tracing::warn!("{text}; {count} event(s) are set aside for now, others go on");
            if self.faulty.reports.is_empty() {
                self.faulty.pause.record_failure(Instant::now());
            }
        }
        for (report, _) in guilty {
            self.keep_waiting(&report);
            self.in_flight.lighten(report.id);
            self.faulty.reports.push_back(report);
        }
    }

    /// The broker has answered for this event, and its row cannot be settled: those behind a refused one of
    /// its key wait.
    pub(super) fn keep_waiting(&mut self, report: &Report) {
        let refused = matches!(report.outcome, Outcome::Failed { .. });
        let again = self.in_flight.answered(report.id, refused);
        self.reader.reread(again);
    }
}
