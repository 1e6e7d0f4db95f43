//! Owns the question whether the relay has nothing to do, and its sleep without a process.
//!
//! Runs in: a relay's background worker, main thread.
//!
//! A relay that has had nothing to do for `event_outbox.idle_timeout` ends, and so does one without work when another
//! worker waits for a process. The launcher starts it again when a commit or a command wakes it, or when the next event is
//! due.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Relay;
use crate::failpoints::{self, Point};
use crate::worker::phase::Request;
use crate::worker::{entry, process};

impl Relay {
    /// Notes since when there has been nothing to do, for the launcher.
    pub(super) fn note_idleness(&mut self) {
        if !self.has_nothing_to_do() {
            self.idle_since = None;
            self.slot.idle_since.store(0, Ordering::Relaxed);
        } else if self.idle_since.is_none() {
            self.idle_since = Some(Instant::now());
            self.slot.idle_since.store(crate::pg::now(), Ordering::Relaxed);
        }
    }

    /// When to end for want of work.
    pub(super) fn bedtime(&self) -> Option<Instant> {
        let timeout = Some(self.settings.idle_timeout).filter(|timeout| *timeout > Duration::ZERO)?;
        self.idle_since?.checked_add(timeout)
    }

    /// Whether it is time to end for want of work.
    pub(super) fn is_bedtime(&self) -> bool {
        // Work may have come since the relay last rested.
        self.bedtime().is_some_and(|date| date <= Instant::now()) && self.has_nothing_to_do()
    }

    /// Says, at the end of the relay, that it sleeps until something is due, if that is why it ends. Work that has come since it
    /// decided to end is due at once. A commit that has not been noticed wakes it.
    pub(super) fn fall_asleep(&self) {
        failpoints::reach(Point::BeforeSleep);
        if process::stop_requested() {
            return;
        }
        if self.has_nothing_to_do() {
            let dates = [self.next_release(), self.in_flight.lanes().next_due()];
            entry::set_asleep(self.slot, dates.into_iter().flatten().min());
        } else if self.slot.order() == Request::None {
            entry::set_asleep(self.slot, Some(crate::pg::now()));
        }
    }

    /// Whether all that the relay knows of is done, or waits for a date that it can be woken at. One that is paused or
    /// disabled is not done: a change of settings wakes nobody without a process.
    fn has_nothing_to_do(&self) -> bool {
        self.may_publish()
            && self.db_backoff.until().is_none()
            && self.has_nothing_in_flight()
            && !self.has_reason_to_sweep()
            && !self.can_release()
            && self.tidying.until().is_none()
            && !self.is_asking_registry()
            && self.next_registry().is_none()
            && self.admin_task.is_none()
    }

    fn has_nothing_in_flight(&self) -> bool {
        self.in_flight.window().is_empty()
            && self.in_flight.ramp().is_empty()
            && self.reports.is_empty()
            && self.locked_rows.is_empty()
            && self.faulty.count() == 0
            && self.unreplicated.is_none()
            && self.once.next_look().is_none()
            && !self.once.has_claimed()
            && self.listeners.until().is_none()
            && self.stalled.is_none()
            && self.stalled_topics.until().is_none()
    }
}
