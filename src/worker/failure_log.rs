//! Owns the log lines about transactions that fail again and again: the first with each SQLSTATE is logged in full, further ones
//! as counts.
//!
//! Runs in: a worker's main thread.

use std::time::{Duration, Instant};

use event_outbox_policy::worker::log_throttle::{LogThrottle, RepeatCount};

use super::transaction::Failed;

/// The failures of one kind of work.
pub struct FailureLog {
    what: String,
    started_at: Instant,
    /// By SQLSTATE. Messages name rows and events, so hardly two are the same.
    failures: LogThrottle<String>,
}

impl FailureLog {
    /// No failure yet of work that fails as `what` says.
    #[must_use]
    pub fn of(what: String) -> Self {
        Self { what, started_at: Instant::now(), failures: LogThrottle::default() }
    }

    /// Logs a failure, or counts it.
    pub fn record(&mut self, failed: &Failed) {
        if self.failures.record(&failed.sqlstate(), 1, self.age()) {
            tracing::warn!("{}: {failed}", self.what);
        }
    }

    /// Logs the counts that are due.
    pub fn log_counts(&mut self) {
        for RepeatCount { kind, count } in self.failures.due(self.age()) {
            let of = kind.map_or_else(|| "with other errors".into(), |code| format!("(SQLSTATE {code})"));
            tracing::warn!("{}: {count} more time(s) {of}", self.what);
        }
    }

    /// When the next count is due, if there is one.
    #[must_use]
    pub fn next_count(&self) -> Option<Instant> {
        self.failures.next_due().map(|due| self.started_at + due)
    }

    fn age(&self) -> Duration {
        self.started_at.elapsed()
    }
}
