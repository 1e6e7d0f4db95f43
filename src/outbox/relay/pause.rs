//! Owns the relay's knowledge of whether the outbox is paused, which `outbox.pause()` records in the
//! database.
//!
//! Runs in: a relay's background worker, main thread.

use std::time::Instant;

use super::Relay;
use super::registration::PAUSE_CHANGED;
use crate::outbox::table::outbox::Outbox;
use crate::worker::transaction;

impl Relay {
    /// Reads the pause state when the relay has started, or after a notice that it may have changed.
    pub(super) fn read_pause(&mut self) {
        if !self.slot.has_notice(PAUSE_CHANGED) || !self.db_backoff.is_over(Instant::now()) {
            return;
        }
        self.slot.take_notice(PAUSE_CHANGED);
        let read = transaction::run(c"event_outbox: looking whether it is paused", || {
            Outbox::locate().is_some_and(Outbox::is_paused)
        });
        match self.note(read) {
            Some(is_paused) => self.set_paused(is_paused),
            None => self.slot.notify(PAUSE_CHANGED),
        }
    }

    /// Sets whether publishing is paused.
    pub(super) fn set_paused(&mut self, is_paused: bool) {
        if is_paused != self.paused {
            self.paused = is_paused;
            self.reader.note_new_rows();
            tracing::info!("publishing is {}", if is_paused { "paused" } else { "resumed" });
        }
    }
}
