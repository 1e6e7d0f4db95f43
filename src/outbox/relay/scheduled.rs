//! Owns the scheduled events as the relay sees them: it sleeps until the next one is due, and moves those that are due into
//! `outbox.events`, where they are events like all others.
//!
//! Runs in: a relay's background worker, main thread.

use std::sync::atomic::Ordering;
use std::time::Instant;

use event_outbox_policy::reading::schedule::{Remedy, Step, UNKNOWN};
use pgrx::prelude::PgSqlErrorCode;

use super::Relay;
use super::metrics;
use super::registration::SCHEDULE_CHANGED;
use crate::outbox::table::scheduled::{self, Moved};
use crate::worker::transaction::{self, Failed};

impl Relay {
    /// Moves the scheduled events that are due.
    pub(super) fn release_scheduled(&mut self) {
        if self.slot.take_notice(SCHEDULE_CHANGED) {
            self.schedule.note_change();
        }
        if !self.can_release() {
            return;
        }
        let step = self.schedule.step(crate::pg::now());
        let shown = &metrics::of(self.slot).next_due;
        // Before the snapshot is taken: a commit that it does not see tells the relay.
        shown.store(UNKNOWN, Ordering::SeqCst);
        let run = transaction::run(c"event_outbox: moving scheduled events", || self.move_due(step));
        match run {
            Ok(Some(Moved { count, next })) => {
                self.note(Ok(()));
                shown.store(self.schedule.moved(step, count, next), Ordering::SeqCst);
                if count > 0 {
                    self.reader.note_new_rows();
                }
            }
            Ok(None) => self.extension_dropped = true,
            // An id that is already taken is the sequence's fault.
            Err(failed)
                if failed.can_be_of_rows() && failed.code != PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION =>
            {
                if self.schedule.failed(step) == Remedy::Bury {
                    self.bury_scheduled(step, &failed);
                }
            }
            Err(failed) => {
                self.note::<()>(Err(failed));
            }
        }
    }

    /// Whether scheduled events may be due, and can be moved.
    pub(super) fn can_release(&self) -> bool {
        self.schedule.is_due(crate::pg::now()) && self.db_backoff.is_over(Instant::now())
    }

    /// When the next scheduled event is due, in microseconds since 1970.
    pub(super) fn next_release(&self) -> Option<i64> {
        self.schedule.date().filter(|_| self.db_backoff.is_over(Instant::now()))
    }

    /// Must run in a transaction. Returns `None` if the extension was dropped.
    fn move_due(&self, step: Step) -> Option<Moved> {
        let outbox = self.outbox()?;
        // While a dump is being restored, the sequence is that of a new extension. A restarted sequence looks the same, but
        // lies in another file than before.
        let is_restarted =
            self.sequence_restarted || self.sequence_file.is_some_and(|file| file != outbox.sequence_file());
        Some(scheduled::release(step, outbox.has_drawn_ids() || is_restarted))
    }

    /// Makes a dead letter of an event that cannot be moved, so that it holds up no other.
    fn bury_scheduled(&mut self, step: Step, cause: &Failed) {
        let error = format!("could not be moved to outbox.events when it was due: {cause}");
        let run = transaction::run(c"event_outbox: setting a scheduled event aside", || {
            scheduled::bury(step, &error);
        });
        if self.note(run).is_some() {
            tracing::warn!("a scheduled event is a dead letter now: it {error}");
            self.slot.show_error(&format!("a scheduled event {error}"));
        }
    }
}
