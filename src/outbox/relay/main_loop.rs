//! Owns the relay's main loop.
//!
//! Runs in: a relay's background worker, main thread.
//!
//! A pass takes the reports of the Kafka thread, settles them in one transaction, reads new events in
//! another, and hands them to the producer. Then the relay sleeps until a commit, the Kafka thread or a
//! signal wakes it, or until the next step is due. [`Relay::run`] lists all steps in their order.
//!
//! The states in `outbox.status`: `idle` ⇄ `publishing` ⇄ `waiting` (no broker answers, or a standby does not
//! confirm) depend on the events in flight; `failing` after a failed transaction, until one succeeds;
//! `misconfigured` while no producer can be created; `disabled` while `event_outbox.enabled` is off; `paused`
//! between `outbox.pause()` and `outbox.resume()`; `stopping` at the end.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use event_outbox_policy::delivery::transaction::MOST_IN_FLIGHT;
use event_outbox_policy::delivery::window::Limits;
use event_outbox_policy::reading::pace::Pace;

use super::registration::{DELIVERY_CHANGED, PAUSE_CHANGED};
use super::state::State;
use super::unreplicated::Unreplicated;
use super::{Relay, metrics};
use crate::kafka::producer::handle::ProducerHandle;
use crate::outbox::missing_copies;
use crate::settings::relay::Settings;
use crate::worker::phase::Request;
use crate::worker::{listen, log, process};

/// The time between two sweeps that find nothing to take because too many topics are behind.
pub(super) const STALL: Duration = Duration::from_millis(50);

/// The shortest time between two receipts of notifications.
const BETWEEN_NOTIFICATIONS: Duration = Duration::from_millis(20);

/// How long to wait for the last acknowledgements when the relay only makes way for another command.
const MAKE_WAY: Duration = Duration::from_secs(1);

/// Why the relay ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// A signal or a request asked it to end.
    Told,
    /// The extension is no longer in the database.
    Gone,
}

impl Relay {
    /// Runs the loop until the relay is asked to end, or the extension is dropped.
    pub fn run(mut self) -> Ending {
        while !self.must_end() {
            self.tend_producer();
            self.drain_producer_events();
            self.run_admin_tasks();
            self.serve_registry();
            self.read_pause();
            self.read_delivery();
            self.read_take_over();
            self.adopt_published();
            self.settle();
            self.resume_transactions();
            self.notify_of_missed();
            self.check_standbys();
            self.hand_over_claimed();
            self.release_scheduled();
            self.count_backlog();
            self.sweep();
            self.tidy();
            self.quarantine_stalled_topics();
            self.watch();
            self.show();
            self.log_refusal_counts();
            self.log_given_up_counts();
            missing_copies::log_counts();
            log::flush();
            self.rest();
            self.reload();
        }
        self.finish()
    }

    pub(super) fn must_end(&self) -> bool {
        self.extension_dropped
            || process::stop_requested()
            || self.slot.order() != Request::None
            || self.is_bedtime()
    }

    /// Whether a sweep is possible now, if there is a reason for one.
    pub(super) fn can_sweep(&self) -> bool {
        self.may_publish()
            && self.unreplicated.is_none()
            && !self.once.has_claimed()
            && self.producer.handle().is_some_and(ProducerHandle::has_room)
            && self.db_backoff.is_over(Instant::now())
            && self.has_room()
    }

    /// Whether events may be handed to the producer.
    pub(super) fn may_publish(&self) -> bool {
        self.producer.is_there()
            && self.settings.enabled
            && !self.paused
            && !self.slot.has_notice(PAUSE_CHANGED)
            && !self.slot.has_notice(DELIVERY_CHANGED)
            && !self.producer.is_leaving()
            && self.exactly.may_publish()
    }

    /// How many events may be in flight. The setting bounds what a crash repeats or loses, but events that are delivered exactly
    /// once are neither: the more of them go together, the less a transaction costs for each.
    pub(super) fn most_in_flight(&self) -> usize {
        let of_setting = self.settings.limits.events;
        match self.exactly.is_on() {
            true if self.once.deliveries.has_any() => of_setting.min(MOST_IN_FLIGHT),
            true => MOST_IN_FLIGHT,
            false => of_setting,
        }
    }

    /// How much may be in flight now. A quarter is reserved for times when topics are quarantined, because
    /// the events of those topics may not come back soon.
    pub(super) fn limits(&self) -> Limits {
        let (events, bytes) = (self.most_in_flight(), self.settings.limits.bytes);
        let (events, bytes) = if self.in_flight.ramp().is_empty() {
            ((events * 3).div_ceil(4), bytes / 4 * 3)
        } else {
            (events, bytes)
        };
        // Faulty events that are set aside do not take room from other events.
        Limits { events: events + self.faulty.count(), bytes }
    }

    /// Whether the window has enough room to make reading worthwhile.
    pub(super) fn has_room(&self) -> bool {
        let share = if self.in_flight.ramp().is_empty() { 4 } else { 16 };
        self.in_flight.window().is_worth_filling(self.limits(), share)
    }

    /// Whether there may be rows to read.
    pub(super) fn has_reason_to_sweep(&self) -> bool {
        self.reader.has_reason(&self.in_flight) || self.slot.wakeup.is_set()
    }

    /// The time since the relay started, which is the clock of the pace.
    pub(super) fn age(&self) -> Duration {
        self.started_at.elapsed()
    }

    /// When to sweep, if there is a reason and a sweep is possible: at once if the last sweep left rows
    /// unread, otherwise not too soon after it.
    pub(super) fn next_sweep(&self) -> Option<Instant> {
        let ready = self.has_reason_to_sweep() && self.can_sweep();
        let paced = || self.started_at + self.pace.next_sweep(self.age());
        let date =
            ready.then(|| if self.reader.is_unfinished(&self.in_flight) { Instant::now() } else { paced() });
        date.map(|date| self.stalled.map_or(date, |until| until.max(date)))
    }

    /// Sleeps until there is something to do. Returns at once if there is already.
    fn rest(&mut self) {
        process::answer_interrupts();
        if self.notification_date().is_some_and(|date| date <= Instant::now()) {
            self.notified = Some(Instant::now());
            match listen::answer() {
                Ok(true) => self.reader.note_new_rows(),
                // A success says nothing about the table, so it does not end the pause after a failure.
                Ok(false) => {}
                Err(failed) => {
                    self.note::<()>(Err(failed));
                }
            }
        }
        let settle_now = self.can_settle();
        let sweep_now = self.next_sweep().is_some_and(|date| date <= Instant::now());
        let renew_now = self.renewal_is_due();
        let tidy_now = self.tidying.until().is_some();
        let release_now = self.can_release();
        let is_over = self.db_backoff.is_over(Instant::now());
        let exactly_now = self.is_all_settled() || self.exactly.is_adopting() && is_over;
        if settle_now
            || sweep_now
            || renew_now
            || tidy_now
            || release_now
            || exactly_now
            || self.must_end()
            || process::has_orders()
        {
            return;
        }
        self.note_idleness();
        self.sleep.wait(self.next_date().map(|date| date.saturating_duration_since(Instant::now())));
        metrics::of(self.slot).wakeups.fetch_add(1, Ordering::Relaxed);
    }

    /// When to receive the notifications that have arrived, if any. Not at once, because any role can send
    /// them as fast as it likes.
    fn notification_date(&self) -> Option<Instant> {
        listen::is_pending()
            .then(|| self.notified.map_or_else(Instant::now, |last| last + BETWEEN_NOTIFICATIONS))
    }

    /// When the next step is due, even if nothing wakes the relay.
    fn next_date(&self) -> Option<Instant> {
        let pauses = [
            self.next_settlement(),
            self.next_sweep(),
            self.producer.renewal_date(),
            self.stalled_topics.until(),
            self.next_watch(),
            self.tidying.until(),
            self.next_registry(),
            self.next_count().filter(|_| self.db_backoff.is_over(Instant::now())),
        ];
        let producer = self.producer.next_start().filter(|_| self.settings.enabled);
        let full_sweep = Some(self.started_at + self.full_sweeps.next()).filter(|_| self.can_sweep());
        let instant = |date: i64| {
            let left = u64::try_from(date - crate::pg::now()).unwrap_or(0);
            Instant::now() + Duration::from_micros(left)
        };
        let retry = self.in_flight.lanes().next_due().filter(|_| self.can_sweep()).map(instant);
        let restart = self.slot.restart_date().map(instant);
        let release = self.next_release().map(instant);
        let standbys = self.unreplicated.as_ref().map(Unreplicated::next_look);
        let refusals = self.refusals.next_due().map(|due| self.started_at + due);
        let copies = missing_copies::next_count();
        let others = [
            producer,
            full_sweep,
            retry,
            standbys,
            self.once.next_look(),
            self.next_given_up_count(),
            refusals,
            copies,
            restart,
            release,
            self.notification_date(),
            self.db_backoff.until().filter(|_| self.exactly.is_adopting()),
            self.bedtime(),
        ];
        pauses.into_iter().chain(others).flatten().min()
    }

    /// Applies changed settings.
    fn reload(&mut self) {
        if !process::reload_if_asked() {
            return;
        }
        let before = std::mem::replace(&mut self.settings, Settings::read(&self.default_source));
        let changed = self.settings.producer != before.producer || self.settings.enabled != before.enabled;
        // The contents of the file may have changed even though its name has not.
        if changed || self.settings.producer.properties_file.is_some() {
            self.producer.forgive();
            self.renew_soon();
        }
        self.registry.reload();
        self.full_sweeps.bring_forward(self.age(), self.settings.sweep_interval);
        self.reader.note_new_rows();
    }

    /// Waits for the events in flight, as long as the settings allow, and settles them, so that nothing is
    /// published twice.
    fn finish(mut self) -> Ending {
        metrics::of(self.slot).show(State::Stopping);
        // Settle without pacing from here on.
        self.pace = Pace::default();
        let patience = match self.slot.order() {
            Request::Restart if self.count_rowless() == 0 => self.settings.shutdown_timeout.min(MAKE_WAY),
            Request::Leave => self.settings.shutdown_timeout.min(MAKE_WAY),
            Request::None | Request::MakeWay | Request::Restart => self.settings.shutdown_timeout,
        };
        let deadline = Instant::now() + patience;
        loop {
            process::shield_from_cancel();
            self.drain_producer_events();
            self.hand_over_claimed();
            self.settle();
            let left = deadline.saturating_duration_since(Instant::now());
            let settle_more = self.can_settle();
            let nothing_comes = self.reports.is_empty()
                && self.locked_rows.is_empty()
                && self.is_disconnected()
                && self.count_rowless() == 0;
            let only_faulty = self.reports.is_empty() && self.in_flight.window().len() <= self.faulty.count();
            if only_faulty || nothing_comes || self.extension_dropped || left.is_zero() {
                break;
            }
            if !settle_more {
                let pause =
                    self.next_settlement().map(|until| until.saturating_duration_since(Instant::now()));
                self.sleep.wait(Some(pause.map_or(left, |pause| pause.min(left))));
            }
        }
        self.fall_asleep();
        self.producer.stop();
        log::flush();
        if self.extension_dropped { Ending::Gone } else { Ending::Told }
    }
}
