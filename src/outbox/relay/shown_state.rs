//! Owns the choice of the state and the numbers that `outbox.status` shows of the relay.
//!
//! Runs in: a relay's background worker, main thread.

use std::sync::atomic::Ordering;

use super::Relay;
use super::metrics;
use super::state::State;
use super::unreplicated::Unreplicated;
use crate::worker::metrics::Connection;

impl Relay {
    /// Updates the relay's state and numbers in the status.
    pub(super) fn show(&self) {
        let state = self.state();
        metrics::of(self.slot).show(state);
        if self.is_well(state) {
            self.slot.show_recovery();
        }
        let metrics = metrics::of(self.slot);
        metrics.delivery.store(self.settings.producer.delivery);
        metrics.in_flight.store(self.in_flight.window().len(), Ordering::Relaxed);
        metrics.max_in_flight.store(self.most_in_flight(), Ordering::Relaxed);
        metrics.waiting_retries.store(self.in_flight.lanes().waiting(), Ordering::Relaxed);
        metrics.blocked_keys.store(self.in_flight.lanes().closed(), Ordering::Relaxed);
        let oldest = self.in_flight.window().oldest().map_or(0, |event| event.emitted_at);
        metrics.oldest_event_at.store(oldest, Ordering::Relaxed);
    }

    /// What the relay does.
    fn state(&self) -> State {
        let is_starting = self.exactly.is_starting();
        if !self.settings.enabled {
            State::Disabled
        } else if self.paused {
            State::Paused
        } else if !self.producer.is_there() {
            State::Misconfigured
        } else if self.db_backoff.until().is_some() {
            State::Failing
        } else if self.waits_for_others() || is_starting && self.is_disconnected() {
            State::Waiting
        } else if is_starting {
            State::Starting
        } else if self.in_flight.window().is_empty() {
            State::Idle
        } else if self.is_disconnected() {
            State::Waiting
        } else {
            State::Publishing
        }
    }

    /// Whether it waits for something other than a broker: a standby, a flush, another relay.
    fn waits_for_others(&self) -> bool {
        self.unreplicated.as_ref().is_some_and(Unreplicated::is_reported)
            || self.once.is_reported()
            || self.exactly.holds_back()
    }

    /// Whether the relay has recovered from all errors.
    fn is_well(&self, state: State) -> bool {
        matches!(state, State::Idle | State::Publishing)
            && metrics::of(self.slot).connection().0 == Connection::Connected
            && self.in_flight.lanes().waiting() == 0
            && self.in_flight.ramp().is_empty()
            && self.locked_rows.is_empty()
            && self.faulty.count() == 0
            && self.listeners.are_reachable()
    }

    pub(super) fn is_disconnected(&self) -> bool {
        metrics::of(self.slot).connection().0 == Connection::Disconnected
    }
}
