//! The relay's main loop.
//!
//! ```text
//!            ┌───────────────────────────────────────────────────────────┐
//!            ▼                                                           │
//!   drain_producer_events ──▶ settle ──▶ sweep ──▶ show ──▶ rest (sleeps) ──▶ reload ┘
//!   from Kafka    one tx      one tx    status   until the bell of a commit, of the Kafka
//!                                                thread, a signal, or the next date
//! ```
//!
//! States, as `outbox.status` shows them: `idle` ⇄ `publishing` ⇄ `waiting` (no broker answers, or a standby does not
//! confirm) by what is in flight; `failing` after a transaction that failed, until one succeeds; `misconfigured` while no
//! producer can be made; `disabled` while `event_outbox.enabled` is off; `paused` between `outbox.pause()` and
//! `outbox.resume()`; `stopping` at the end.

use std::cell::OnceCell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use event_outbox_policy::backoff::Backoff;
use event_outbox_policy::delivery::error_class::ErrorClass;
use event_outbox_policy::delivery::in_flight::InFlight;
use event_outbox_policy::delivery::outcome::Report;
use event_outbox_policy::delivery::window::Limits;
use event_outbox_policy::event::event_batch::BatchSize;
use event_outbox_policy::event::timestamps::Timestamps;
use event_outbox_policy::reading::pace::Pace;
use event_outbox_policy::reading::reader::Reader;
use event_outbox_policy::worker::log_throttle::LogThrottle;
use pgrx::pg_sys;

use super::admin::AdminTask;
use super::candidates::TopicNames;
use super::faulty::Faulty;
use super::listeners::Listeners;
use super::locked_rows::LockedRows;
use super::metrics;
use super::producer::ProducerSupervisor;
use super::registration::PAUSE_CHANGED;
use super::stalled_topics::StalledTopics;
use super::state::State;
use super::unreplicated::Unreplicated;
use super::watch::Watch;
use crate::kafka::producer::handle::ProducerHandle;
use crate::kafka::wakeup_fd::WakeupFd;
use crate::outbox::missing_copies;
use crate::outbox::table::identity::RowIdentity;
use crate::outbox::table::outbox::Outbox;
use crate::pg::wait_set::Sleep;
use crate::settings::relay::Settings;
use crate::worker::phase::Request;
use crate::worker::slot::Slot;
use crate::worker::transaction::Failed;
use crate::worker::{listen, log, process};

/// First and longest pause after a transaction that failed.
const DATABASE_PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// Keys that can wait for a retry at the same time; beyond that, each topic may have one more.
const MAX_WAITING_KEYS: usize = 10_000;

/// Topics with events that wait; beyond that, reading pauses at topics of which nothing was ever published.
const MAX_TOPICS_BEHIND: usize = 50_000;

/// While so many topics are behind, this long between two looks that find nothing to take.
pub(super) const STALL: Duration = Duration::from_millis(50);

/// Time between two looks at notifications, at least.
const BETWEEN_NOTIFICATIONS: Duration = Duration::from_millis(20);

/// Time for the last acknowledgements when the relay only makes way for another command.
const MAKE_WAY: Duration = Duration::from_secs(1);

/// Why the relay ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It was told to: a signal, or a request.
    Told,
    /// The extension is no longer in the database.
    Gone,
}

/// A relay at work.
pub struct Relay {
    pub(super) slot: &'static Slot,
    pub(super) settings: Settings,
    pub(super) producer: ProducerSupervisor,
    pub(super) in_flight: InFlight<RowIdentity>,
    pub(super) reader: Reader,
    /// Where the sequence of the ids lies that the floor is about.
    pub(super) sequence_file: Option<pg_sys::Oid>,
    /// Nothing can be taken before then, since too many topics are behind.
    pub(super) stalled: Option<Instant>,
    pub(super) timestamps: Timestamps,
    pub(super) stalled_topics: StalledTopics,
    pub(super) watch: Watch,
    /// Reports that are not settled yet.
    pub(super) reports: VecDeque<Report>,
    /// Reports that cannot be settled while other sessions lock the rows.
    pub(super) locked_rows: LockedRows,
    /// Reports that cannot be settled, whatever is tried.
    pub(super) faulty: Faulty,
    /// Whom to tell what was published, and what they do not know yet.
    pub(super) listeners: Listeners,
    /// What was read and the standbys do not have yet.
    pub(super) unreplicated: Option<Unreplicated>,
    /// Topics met, each kept once.
    pub(super) topics: TopicNames,
    /// How much the last batch was.
    pub(super) last_batch: BatchSize,
    pub(super) next_full_sweep: Instant,
    pub(super) extension_dropped: bool,
    /// The outbox it serves, once it has looked.
    pub(super) served_outbox: OnceCell<Outbox>,
    pub(super) db_backoff: Backoff,
    pub(super) pace: Pace,
    pub(super) started_at: Instant,
    /// `outbox.pause()` was called, and not yet `outbox.resume()`.
    pub(super) paused: bool,
    /// Refusals by topic and kind that the log has not been told of.
    pub(super) refusals: LogThrottle<(Arc<str>, ErrorClass)>,
    /// When notifications were last taken in.
    notified: Option<Instant>,
    /// What a backend asked of Kafka.
    pub(super) admin_task: Option<AdminTask>,
    default_source: String,
    pub(super) kafka_wakeup: Arc<WakeupFd>,
    sleep: Sleep,
}

impl Relay {
    /// A relay that has not looked yet. `bell` is what the Kafka thread rings.
    #[must_use]
    pub fn new(slot: &'static Slot, default_source: String, kafka_wakeup: WakeupFd) -> Self {
        let sleep = Sleep::new(c"EventOutboxRelay", Some(kafka_wakeup.fd()));
        let settings = Settings::read(&default_source);
        Self {
            slot,
            producer: ProducerSupervisor::default(),
            in_flight: InFlight::new(MAX_WAITING_KEYS, MAX_TOPICS_BEHIND, settings.producer.ordered),
            reader: Reader::default(),
            sequence_file: None,
            stalled: None,
            timestamps: Timestamps::default(),
            settings,
            stalled_topics: StalledTopics::default(),
            watch: Watch::default(),
            reports: VecDeque::new(),
            locked_rows: LockedRows::default(),
            faulty: Faulty::default(),
            listeners: Listeners::default(),
            unreplicated: None,
            topics: TopicNames::default(),
            last_batch: BatchSize::default(),
            next_full_sweep: Instant::now(),
            extension_dropped: false,
            served_outbox: OnceCell::new(),
            pace: Pace::default(),
            started_at: Instant::now(),
            db_backoff: Backoff::new(DATABASE_PAUSE.0, DATABASE_PAUSE.1),
            paused: false,
            refusals: LogThrottle::default(),
            notified: None,
            admin_task: None,
            default_source,
            kafka_wakeup: Arc::new(kafka_wakeup),
            sleep,
        }
    }

    /// Works until told to end, or the extension is gone.
    pub fn run(mut self) -> Ending {
        while !self.must_end() {
            self.tend_producer();
            self.drain_producer_events();
            self.run_admin_tasks();
            self.read_pause();
            self.settle();
            self.tell_untold();
            self.look_at_standbys();
            self.sweep();
            self.set_stuck_topics_aside();
            self.watch();
            self.show();
            self.log_refusal_counts();
            missing_copies::log_counts();
            log::flush();
            self.rest();
            self.reload();
        }
        self.finish()
    }

    fn must_end(&self) -> bool {
        self.extension_dropped || process::stop_requested() || self.slot.order() != Request::None
    }

    /// Notes how a transaction went. A failure is logged once, and the next try waits a while.
    pub(super) fn note<R>(&mut self, result: Result<R, Failed>) -> Option<R> {
        match result {
            Ok(value) => {
                if self.db_backoff.record_success() {
                    tracing::info!("the relay works again");
                }
                Some(value)
            }
            // Its own end is no trouble.
            Err(_) if process::stop_requested() => None,
            Err(failed) => {
                self.slot.show_error(&failed.message);
                if self.db_backoff.record_failure(Instant::now()) {
                    tracing::warn!("the relay cannot work, and tries again: {failed}");
                }
                None
            }
        }
    }

    /// Whether the table could be swept now, if there were a reason.
    pub(super) fn can_sweep(&self) -> bool {
        self.may_publish()
            && self.unreplicated.is_none()
            && self.producer.handle().is_some_and(ProducerHandle::has_room)
            && self.db_backoff.is_over(Instant::now())
            && self.has_room()
    }

    /// Whether events are to be handed to the producer at all.
    pub(super) fn may_publish(&self) -> bool {
        self.producer.is_there()
            && self.settings.enabled
            && !self.paused
            && !self.slot.has_notice(PAUSE_CHANGED)
            && !self.producer.is_leaving()
    }

    /// How much may be in flight now. A quarter is kept back for the time when topics are handled with
    /// caution, since what those hold may not come back soon.
    pub(super) fn limits(&self) -> Limits {
        let Limits { events, bytes } = self.settings.limits;
        let (events, bytes) = if self.in_flight.ramp().is_empty() {
            ((events * 3).div_ceil(4), bytes / 4 * 3)
        } else {
            (events, bytes)
        };
        // Those that are set aside take no place from others.
        Limits { events: events + self.faulty.count(), bytes }
    }

    /// Whether there is so much room in the window that reading is worth it.
    pub(super) fn has_room(&self) -> bool {
        let share = if self.in_flight.ramp().is_empty() { 4 } else { 16 };
        self.in_flight.window().is_worth_filling(self.limits(), share)
    }

    /// Whether there may be something new to read.
    pub(super) fn has_reason_to_sweep(&self) -> bool {
        self.reader.has_reason(&self.in_flight) || self.slot.wakeup.is_set()
    }

    /// The time, as the pace is measured.
    pub(super) fn age(&self) -> Duration {
        self.started_at.elapsed()
    }

    /// When to sweep, if there is a reason to and it can be done: at once if there was more than could be read last
    /// time, else not too soon after that.
    pub(super) fn next_sweep(&self) -> Option<Instant> {
        let ready = self.has_reason_to_sweep() && self.can_sweep();
        let paced = || self.started_at + self.pace.next_sweep(self.age());
        let date =
            ready.then(|| if self.reader.is_unfinished(&self.in_flight) { Instant::now() } else { paced() });
        date.map(|date| self.stalled.map_or(date, |until| until.max(date)))
    }

    /// Sleeps until there is something to do; not at all if there is already.
    fn rest(&mut self) {
        process::answer_interrupts();
        if self.notification_date().is_some_and(|date| date <= Instant::now()) {
            self.notified = Some(Instant::now());
            match listen::answer() {
                Ok(true) => self.reader.note_new_rows(),
                // A success says nothing of the table, so it does not end the pause after a failure.
                Ok(false) => {}
                Err(failed) => {
                    self.note::<()>(Err(failed));
                }
            }
        }
        let settle_now = self.can_settle();
        let sweep_now = self.next_sweep().is_some_and(|date| date <= Instant::now());
        let renew_now = self.renewal_is_due();
        if settle_now || sweep_now || renew_now || self.must_end() || process::has_orders() {
            return;
        }
        self.sleep.wait(self.next_date().map(|date| date.saturating_duration_since(Instant::now())));
        metrics::of(self.slot).wakeups.fetch_add(1, Ordering::Relaxed);
    }

    /// When to take in the notifications that have arrived, if any have: every role can send them as fast as it likes.
    fn notification_date(&self) -> Option<Instant> {
        listen::is_pending()
            .then(|| self.notified.map_or_else(Instant::now, |last| last + BETWEEN_NOTIFICATIONS))
    }

    /// When to look again, though nobody rings.
    fn next_date(&self) -> Option<Instant> {
        let pauses = [
            self.next_settlement(),
            self.next_sweep(),
            self.producer.renewal_date(),
            self.stalled_topics.until(),
            self.next_watch(),
        ];
        let producer = self.producer.next_start().filter(|_| self.settings.enabled);
        let full_sweep = Some(self.next_full_sweep).filter(|_| self.can_sweep());
        let instant = |date: i64| {
            let left = u64::try_from(date - crate::pg::now()).unwrap_or(0);
            Instant::now() + Duration::from_micros(left)
        };
        let retry = self.in_flight.lanes().next_due().filter(|_| self.can_sweep()).map(instant);
        let restart = self.slot.restart_date().map(instant);
        let standbys = self.unreplicated.as_ref().map(Unreplicated::next_look);
        let refusals = self.refusals.next_due().map(|due| self.started_at + due);
        let copies = missing_copies::next_count();
        let others =
            [producer, full_sweep, retry, standbys, refusals, copies, restart, self.notification_date()];
        pauses.into_iter().chain(others).flatten().min()
    }

    /// Takes over changed settings.
    fn reload(&mut self) {
        if !process::reload_if_asked() {
            return;
        }
        let before = std::mem::replace(&mut self.settings, Settings::read(&self.default_source));
        let changed = self.settings.producer != before.producer || self.settings.enabled != before.enabled;
        // What a file holds may have changed though its name has not.
        if changed || self.settings.producer.properties_file.is_some() {
            self.producer.forgive();
            self.renew_soon();
        }
        self.next_full_sweep = self.next_full_sweep.min(Instant::now() + self.settings.sweep_interval);
        self.reader.note_new_rows();
    }

    /// Waits for what is in flight, as long as the settings allow, and settles it, so that nothing is
    /// published twice.
    fn finish(mut self) -> Ending {
        metrics::of(self.slot).show(State::Stopping);
        // In no time at all.
        self.pace = Pace::default();
        let patience = match self.slot.order() {
            Request::None => self.settings.shutdown_timeout,
            Request::Restart | Request::Leave => self.settings.shutdown_timeout.min(MAKE_WAY),
        };
        let deadline = Instant::now() + patience;
        loop {
            process::shield_from_cancel();
            self.drain_producer_events();
            self.settle();
            let left = deadline.saturating_duration_since(Instant::now());
            let settle_more = self.can_settle();
            let nothing_comes =
                self.reports.is_empty() && self.locked_rows.is_empty() && self.is_disconnected();
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
        self.producer.stop();
        log::flush();
        if self.extension_dropped { Ending::Gone } else { Ending::Told }
    }
}
