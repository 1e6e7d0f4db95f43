//! Records the failures that sessions have noted: a batch is narrowed, an event alone is charged.
//!
//! Runs in: an ingest worker, main thread.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Ingest;
use super::metrics;
use super::registration::FAILURES;
use crate::failpoints::{self, Point};
use crate::inbox::arrivals;
use crate::inbox::receive::charge::{self, Applied};
use crate::inbox::receive::crashed;
use crate::inbox::receive::failures::{self, Cause, Failure};
use crate::inbox::table::as_owner;
use crate::pg::{backend, durability};
use crate::worker::failure_log::FailureLog;
use crate::worker::{process, transaction};

/// When to try again if another session holds the lock of a lane.
const LOCKED_PAUSE: Duration = Duration::from_millis(50);

/// How often an error may keep a failure from being recorded before it is given up. The events are received again then, and
/// the attempt is not counted.
const TRIES: u32 = 10;

/// When to try again after an error.
const ERROR_PAUSE: Duration = Duration::from_secs(1);

/// Failures that could not be recorded yet, because another session held the lock of their lane, or because of an error.
pub struct Failures {
    /// Each with the number of errors.
    waiting: Vec<(Failure, u32)>,
    next: Option<Instant>,
    errors: FailureLog,
}

impl Failures {
    /// Those of a crash of the server, to begin with.
    #[must_use]
    pub fn of_crash() -> Self {
        let waiting: Vec<(Failure, u32)> =
            crashed::failures().into_iter().map(|failure| (failure, 0)).collect();
        let next = (!waiting.is_empty()).then(Instant::now);
        Self { waiting, next, errors: FailureLog::of("could not record that an event failed".into()) }
    }

    fn put_off(&mut self, failure: Failure, errors: u32, pause: Duration) {
        self.waiting.push((failure, errors));
        let next = Instant::now() + pause;
        self.next = Some(self.next.map_or(next, |date| date.min(next)));
    }
}

impl Ingest {
    /// Whether failures can be recorded now.
    pub(super) fn has_failures(&self) -> bool {
        failures::any(backend::database()) || self.failures.next.is_some_and(|next| next <= Instant::now())
    }

    /// When failures that were put off are tried again, or errors are to be logged.
    pub(super) fn next_failures(&self) -> Option<Instant> {
        self.failures.next.into_iter().chain(self.failures.errors.next_count()).min()
    }

    /// Records the failures that were noted. An error of one concerns no other, so it does not count as one of the worker.
    pub(super) fn record_failures(&mut self) {
        self.slot.take_notice(FAILURES);
        self.failures.errors.log_counts();
        if !self.has_failures() {
            return;
        }
        let mut noted = std::mem::take(&mut self.failures.waiting);
        noted.extend(failures::take(backend::database()).into_iter().map(|failure| (failure, 0)));
        self.failures.next = None;
        for (failure, errors) in noted {
            match transaction::run(c"event_outbox: recording a failure", || record(&failure)) {
                Ok(true) => {
                    settle(&failure);
                    metrics::of(self.slot).failures.fetch_add(1, Ordering::Relaxed);
                    arrivals::condition().broadcast();
                }
                Ok(false) => self.failures.put_off(failure, errors, LOCKED_PAUSE),
                Err(_) if process::stop_requested() => {}
                Err(error) => {
                    self.failures.errors.record(&error);
                    if errors == 0 {
                        self.slot.show_error(&error.message);
                    }
                    if errors < TRIES {
                        self.failures.put_off(failure, errors + 1, ERROR_PAUSE);
                    } else {
                        settle(&failure);
                    }
                }
            }
        }
    }
}

/// The lane of a crash may be received from.
fn settle(failure: &Failure) {
    if let Cause::Crash(crash) = failure.cause {
        crashed::settled(crash);
    }
}

/// Records a failure. Returns `false` if another session holds the lock of the lane.
fn record(failure: &Failure) -> bool {
    if failure.cause != Cause::GivenUp {
        // The next crash may come before the log is written to disk.
        durability::force_sync_commit();
    }
    let applied = as_owner(|| charge::apply(failure));
    failpoints::reach(Point::InFailure);
    applied != Applied::Busy
}
