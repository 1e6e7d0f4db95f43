//! Owns the relay, which publishes the events of one database: it reads rows, sends them to Kafka, and
//! settles what came back.
//!
//! Runs in: a background worker, main thread; one for each database that has the extension.
//!
//! [`main`] is the worker's entry point; it runs the loop of [`main_loop`]. Each step of the loop is a method
//! of [`Relay`] in a file of its own. This file has what the steps share. Only the main thread touches
//! Postgres; only the Kafka thread, behind
//! [`ProducerHandle`](crate::kafka::producer::handle::ProducerHandle), touches librdkafka.

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
use event_outbox_policy::reading::full_sweep::FullSweeps;
use event_outbox_policy::reading::pace::Pace;
use event_outbox_policy::reading::reader::Reader;
use event_outbox_policy::reading::schedule::Schedule;
use event_outbox_policy::worker::log_throttle::LogThrottle;
use pgrx::pg_sys;

use self::admin::AdminTask;
use self::at_most_once::AtMostOnce;
use self::backlog::Counted;
use self::candidates::TopicNames;
use self::exactly_once::ExactlyOnce;
use self::faulty::Faulty;
use self::listeners::Listeners;
use self::locked_rows::LockedRows;
use self::producer::ProducerSupervisor;
use self::registry::SchemaRegistry;
use self::stalled_topics::StalledTopics;
use self::tidy::Tidying;
use self::unflushed::Unflushed;
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
pub mod archive;
pub mod at_most_once;
pub mod backlog;
pub mod candidates;
pub mod exactly_once;
pub mod faulty;
pub mod idle;
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
pub mod registry;
pub mod scheduled;
pub mod settle;
pub mod shown_state;
pub mod sorted;
pub mod stalled_topics;
pub mod state;
pub mod sweep;
pub mod tidy;
pub mod unflushed;
pub mod unreplicated;
pub mod wait_ready;
pub mod watch;

/// The first and the longest pause after a failed transaction.
const DATABASE_PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// How many keys can wait for a retry at the same time; beyond that, each topic may have one more.
const MAX_WAITING_KEYS: usize = 10_000;

/// How many topics can have waiting events; beyond that, reading pauses at topics without any published
/// event.
const MAX_TOPICS_BEHIND: usize = 50_000;

/// The state of a running relay.
pub struct Relay {
    slot: &'static Slot,
    settings: Settings,
    producer: ProducerSupervisor,
    in_flight: InFlight<RowIdentity>,
    reader: Reader,
    /// The file of the sequence that numbers the events. The floor holds for this file only.
    sequence_file: Option<pg_sys::Oid>,
    /// The sequence was restarted, as by TRUNCATE … RESTART IDENTITY.
    sequence_restarted: bool,
    /// Until then nothing can be taken, because too many topics are behind.
    stalled: Option<Instant>,
    timestamps: Timestamps,
    stalled_topics: StalledTopics,
    registry: SchemaRegistry,
    watch: Watch,
    /// Reports to be settled.
    reports: VecDeque<Report>,
    /// Reports that cannot be settled while other sessions hold locks on the rows.
    locked_rows: LockedRows,
    /// Reports whose settlement always fails.
    faulty: Faulty,
    /// The settlements that a crash may undo.
    unflushed: Unflushed,
    /// The notifications that listeners have missed.
    listeners: Listeners,
    /// The events whose rows are deleted before they are published.
    once: AtMostOnce,
    /// Transactions of Kafka, and what they have published.
    exactly: ExactlyOnce,
    /// A batch that was read but is not on the required standbys yet.
    unreplicated: Option<Unreplicated>,
    /// The names of the topics that the relay has read, each stored once.
    topics: TopicNames,
    /// The size of the last batch.
    last_batch: BatchSize,
    full_sweeps: FullSweeps,
    tidying: Tidying,
    /// Events that can expire may be waiting for a connection to Kafka.
    holds_back: bool,
    /// When the waiting events were last counted.
    counted: Counted,
    /// When scheduled events are due.
    schedule: Schedule,
    extension_dropped: bool,
    /// The outbox that the relay serves; empty until it has looked it up.
    served_outbox: OnceCell<Outbox>,
    db_backoff: Backoff,
    pace: Pace,
    started_at: Instant,
    /// `outbox.pause()` was called, and `outbox.resume()` was not called since.
    paused: bool,
    /// Refusals by topic and class that are not logged yet.
    refusals: LogThrottle<(Arc<str>, ErrorClass)>,
    /// Since when there has been nothing to do.
    idle_since: Option<Instant>,
    /// When notifications were last received.
    notified: Option<Instant>,
    /// The request of a backend that is being run.
    admin_task: Option<AdminTask>,
    default_source: String,
    kafka_wakeup: Arc<WakeupFd>,
    sleep: Sleep,
}

impl Relay {
    /// Creates a relay that has not read anything yet. The Kafka thread wakes it through `kafka_wakeup`.
    #[must_use]
    pub fn new(slot: &'static Slot, default_source: String, kafka_wakeup: WakeupFd) -> Self {
        let sleep = Sleep::new(c"EventOutboxRelay", Some(kafka_wakeup.fd()));
        let settings = Settings::read(&default_source);
        Self {
            slot,
            producer: ProducerSupervisor::default(),
            in_flight: InFlight::new(
                MAX_WAITING_KEYS,
                MAX_TOPICS_BEHIND,
                settings.producer.starts_in_groups(),
            ),
            reader: Reader::default(),
            sequence_file: None,
            sequence_restarted: false,
            stalled: None,
            timestamps: Timestamps::default(),
            settings,
            registry: SchemaRegistry::default(),
            stalled_topics: StalledTopics::default(),
            watch: Watch::default(),
            reports: VecDeque::new(),
            locked_rows: LockedRows::default(),
            faulty: Faulty::default(),
            unflushed: Unflushed::default(),
            listeners: Listeners::default(),
            once: AtMostOnce::default(),
            exactly: ExactlyOnce::default(),
            unreplicated: None,
            topics: TopicNames::default(),
            last_batch: BatchSize::default(),
            full_sweeps: FullSweeps::default(),
            tidying: Tidying::default(),
            holds_back: false,
            counted: Counted::default(),
            schedule: Schedule::default(),
            extension_dropped: false,
            served_outbox: OnceCell::new(),
            pace: Pace::default(),
            started_at: Instant::now(),
            db_backoff: Backoff::new(DATABASE_PAUSE.0, DATABASE_PAUSE.1),
            paused: false,
            refusals: LogThrottle::default(),
            idle_since: None,
            notified: None,
            admin_task: None,
            default_source,
            kafka_wakeup: Arc::new(kafka_wakeup),
            sleep,
        }
    }

    /// Records the result of a transaction. The first of several failures is logged, and each delays the next
    /// try.
    fn note<R>(&mut self, result: Result<R, Failed>) -> Option<R> {
        match result {
            Ok(value) => {
                if self.db_backoff.record_success() {
                    tracing::info!("relay transactions succeed again");
                }
                Some(value)
            }
            // An error caused by our own shutdown is not reported.
            Err(_) if process::stop_requested() => None,
            Err(failed) => {
                self.slot.show_error(&failed.message);
                if self.db_backoff.record_failure(Instant::now()) {
                    tracing::warn!("relay transaction failed, will retry: {failed}");
                }
                None
            }
        }
    }
}
