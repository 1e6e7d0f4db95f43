//! The relay: from the table to Kafka and back, one per database.
//!
//! [`main`] is the worker's entry point; it runs the loop of [`main_loop`]. Each step of the loop is a method of [`Relay`] in
//! a file of its own; what they share is here. Only this main thread touches Postgres; only the Kafka thread, behind
//! [`ProducerHandle`](crate::kafka::producer::handle::ProducerHandle), touches librdkafka.
//!
//! Runs in: a background worker, one for each database that has the extension.

use std::cell::OnceCell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use event_outbox_policy::backoff::Backoff;
use event_outbox_policy::delivery::error_class::ErrorClass;
use event_outbox_policy::delivery::in_flight::InFlight;
use event_outbox_policy::delivery::outcome::Report;
use event_outbox_policy::event::event_batch::BatchSize;
use event_outbox_policy::event::timestamps::Timestamps;
use event_outbox_policy::reading::pace::Pace;
use event_outbox_policy::reading::reader::Reader;
use event_outbox_policy::worker::log_throttle::LogThrottle;
use pgrx::pg_sys;

use self::admin::AdminTask;
use self::candidates::TopicNames;
use self::faulty::Faulty;
use self::listeners::Listeners;
use self::locked_rows::LockedRows;
use self::producer::ProducerSupervisor;
use self::stalled_topics::StalledTopics;
use self::unreplicated::Unreplicated;
use self::watch::Watch;
use crate::kafka::wakeup_fd::WakeupFd;
use crate::outbox::table::identity::RowIdentity;
use crate::outbox::table::outbox::Outbox;
use crate::pg::wait_set::Sleep;
use crate::settings::relay::Settings;
use crate::worker::process;
use crate::worker::slot::Slot;
use crate::worker::transaction::Failed;

pub mod admin;
pub mod candidates;
pub mod faulty;
pub mod listeners;
pub mod locked_rows;
pub mod main;
pub mod main_loop;
pub mod metrics;
pub mod mistakes;
pub mod pause;
pub mod producer;
pub mod readiness;
pub mod registration;
pub mod settle;
pub mod shown_state;
pub mod stalled_topics;
pub mod state;
pub mod sweep;
pub mod unreplicated;
pub mod wait_ready;
pub mod watch;

/// First and longest pause after a transaction that failed.
const DATABASE_PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// Keys that can wait for a retry at the same time; beyond that, each topic may have one more.
const MAX_WAITING_KEYS: usize = 10_000;

/// Topics with events that wait; beyond that, reading pauses at topics of which nothing was ever published.
const MAX_TOPICS_BEHIND: usize = 50_000;

/// A relay at work.
pub struct Relay {
    slot: &'static Slot,
    settings: Settings,
    producer: ProducerSupervisor,
    in_flight: InFlight<RowIdentity>,
    reader: Reader,
    /// Where the sequence of the ids lies that the floor is about.
    sequence_file: Option<pg_sys::Oid>,
    /// Nothing can be taken before then, since too many topics are behind.
    stalled: Option<Instant>,
    timestamps: Timestamps,
    stalled_topics: StalledTopics,
    watch: Watch,
    /// Reports that are not settled yet.
    reports: VecDeque<Report>,
    /// Reports that cannot be settled while other sessions lock the rows.
    locked_rows: LockedRows,
    /// Reports that cannot be settled, whatever is tried.
    faulty: Faulty,
    /// Whom to tell what was published, and what they do not know yet.
    listeners: Listeners,
    /// What was read and the standbys do not have yet.
    unreplicated: Option<Unreplicated>,
    /// Topics met, each kept once.
    topics: TopicNames,
    /// How much the last batch was.
    last_batch: BatchSize,
    next_full_sweep: Instant,
    extension_dropped: bool,
    /// The outbox it serves, once it has looked.
    served_outbox: OnceCell<Outbox>,
    db_backoff: Backoff,
    pace: Pace,
    started_at: Instant,
    /// `outbox.pause()` was called, and not yet `outbox.resume()`.
    paused: bool,
    /// Refusals by topic and kind that the log has not been told of.
    refusals: LogThrottle<(Arc<str>, ErrorClass)>,
    /// When notifications were last taken in.
    notified: Option<Instant>,
    /// What a backend asked of Kafka.
    admin_task: Option<AdminTask>,
    default_source: String,
    kafka_wakeup: Arc<WakeupFd>,
    sleep: Sleep,
}

impl Relay {
    /// A relay that has not read anything yet. The Kafka thread wakes it by `kafka_wakeup`.
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

    /// Notes how a transaction went. A failure is logged once, and the next try waits a while.
    fn note<R>(&mut self, result: Result<R, Failed>) -> Option<R> {
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
}
