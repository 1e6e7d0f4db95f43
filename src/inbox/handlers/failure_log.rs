//! Owns the log lines about a handler's failures: the first with each SQLSTATE is logged in full, further ones as counts. All
//! of them are in `inbox.retries` and `inbox.dead_letters`.
//!
//! Runs in: a handler's background worker.

use std::time::{Duration, Instant};

use event_outbox_policy::worker::log_throttle::{LogThrottle, RepeatCount};

use crate::worker::transaction::Failed;

/// The failures of one process.
pub struct FailureLog<'a> {
    subscription: &'a str,
    started_at: Instant,
    /// By SQLSTATE. Messages name events, so hardly two are the same.
    failures: LogThrottle<String>,
}

impl<'a> FailureLog<'a> {
    /// No failure yet of the handler of this subscription.
    #[must_use]
    pub fn of(subscription: &'a str) -> Self {
        Self { subscription, started_at: Instant::now(), failures: LogThrottle::default() }
    }

    /// Logs a failure, or counts it.
    pub fn record(&mut self, failed: &Failed) {
        if self.failures.record(&failed.sqlstate(), 1, self.age()) {
            tracing::warn!("the handler of subscription \"{}\" failed: {failed}", self.subscription);
        }
    }

    /// Logs the counts that are due.
    pub fn log_counts(&mut self) {
        for RepeatCount { kind, count } in self.failures.due(self.age()) {
            let of = kind.map_or_else(|| "with other errors".into(), |code| format!("(SQLSTATE {code})"));
            tracing::warn!(
                "the handler of subscription \"{}\" failed {count} more time(s) {of}",
                self.subscription
            );
        }
    }

    fn age(&self) -> Duration {
        self.started_at.elapsed()
    }
}
