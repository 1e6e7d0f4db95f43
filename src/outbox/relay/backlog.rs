//! Owns the count of waiting events for `event_outbox.max_backlog`: the relay takes off what has left the table, and counts
//! the table from time to time, which corrects what commits could not know (deletions by hand, prepared transactions, events
//! from before there was a limit).
//!
//! Runs in: a relay's background worker, main thread.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use event_outbox_policy::delivery::backlog_limit;

use super::Relay;
use super::metrics;
use crate::outbox::table::backlog;
use crate::outbox::table::identity::RowIdentity;
use crate::settings::backlog as settings;
use crate::worker::transaction;

/// When the table was last counted, and for which limit.
#[derive(Debug, Default)]
pub struct Counted(Option<(Duration, i64)>);

impl Relay {
    /// Counts the waiting events, if there is a limit and a count is due.
    pub(super) fn count_backlog(&mut self) {
        let limit = settings::max_backlog();
        if limit == 0 {
            self.counted.0 = None;
            return;
        }
        if self.next_count().is_none_or(|date| date > Instant::now())
            || !self.db_backoff.is_over(Instant::now())
        {
            return;
        }
        self.counted.0 = Some((self.age(), limit));
        let count = &metrics::of(self.slot).backlog;
        let before = count.load(Ordering::Relaxed);
        let most = backlog_limit::most_counted(limit);
        let run = transaction::run(c"event_outbox: counting waiting events", || {
            self.outbox().map(|outbox| backlog::count(outbox, most))
        });
        match self.note(run) {
            Some(Some((rows, estimate))) => {
                let correction = backlog_limit::correction(before, rows, most, estimate);
                count.fetch_add(correction, Ordering::Relaxed);
            }
            Some(None) => self.extension_dropped = true,
            None => {}
        }
    }

    /// When the table is counted next, if there is a limit. An empty outbox needs no count.
    pub(super) fn next_count(&self) -> Option<Instant> {
        let limit = settings::max_backlog();
        match self.counted.0 {
            _ if limit == 0 => None,
            Some((at, counted_for)) if counted_for == limit => {
                let is_empty = metrics::of(self.slot).backlog.load(Ordering::Relaxed) == 0;
                (!is_empty).then(|| self.started_at + at + self.settings.sweep_interval)
            }
            _ => Some(Instant::now()),
        }
    }

    /// These events have left the table.
    pub(super) fn count_gone<'r>(&self, rows: impl Iterator<Item = &'r RowIdentity>) {
        if settings::max_backlog() > 0 {
            let count = i64::try_from(rows.count()).unwrap_or(0);
            metrics::of(self.slot).backlog.fetch_sub(count, Ordering::Relaxed);
        }
    }
}
