//! Owns the settings that a relay works with, and the snapshot of them that it takes before each pass.
//!
//! Runs in: the postmaster, which defines them; the relay's main thread takes the snapshot.

use std::time::Duration;

use event_outbox_policy::delivery::mode::DeliveryMode;
use event_outbox_policy::delivery::notify::Mode;
use event_outbox_policy::delivery::window::Limits;
use event_outbox_policy::kafka::producer::ProducerConfig;
use pgrx::{GucFlags, GucSetting, PostgresGucEnum};

use super::{Guc, envelope, kafka, millis, seconds, secret, size};

/// `event_outbox.delivery`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
#[allow(clippy::enum_variant_names, reason = "these are the names of the field")]
enum DeliverySetting {
    #[name = c"at_least_once"]
    AtLeastOnce,
    #[name = c"at_most_once"]
    AtMostOnce,
    #[name = c"exactly_once"]
    ExactlyOnce,
}

/// `event_outbox.notify`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
enum NotifySetting {
    #[name = c"batch"]
    Batch,
    #[name = c"event"]
    Event,
    #[name = c"off"]
    Off,
}

/// `event_outbox.ordering`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
enum OrderingSetting {
    #[name = c"key"]
    Key,
    #[name = c"none"]
    None,
}

// On, since a user who creates the extension wants its events published.
static ENABLED: GucSetting<bool> = GucSetting::<bool>::new(true);
// Loses nothing and needs nothing of consumers or brokers.
static DELIVERY: GucSetting<DeliverySetting> =
    GucSetting::<DeliverySetting>::new(DeliverySetting::AtLeastOnce);
// A smaller window makes a backlog slower, a larger one makes it no faster and a crash repeat more.
static MAX_IN_FLIGHT: GucSetting<i32> = GucSetting::<i32>::new(5_000);
// Half of it is for events in flight; a batch takes the other half while it is read and settled.
static RELAY_MEMORY: GucSetting<i32> = GucSetting::<i32>::new(64);
// Reading and settling a batch take some ten milliseconds each: long enough to be cheap per event, short
// enough that interrupts are answered.
static BATCH_SIZE: GucSetting<i32> = GucSetting::<i32>::new(5_000);
static NOTIFY: GucSetting<NotifySetting> = GucSetting::<NotifySetting>::new(NotifySetting::Batch);
static ORDERING: GucSetting<OrderingSetting> = GucSetting::<OrderingSetting>::new(OrderingSetting::Key);
// A safety net for rows that bypass the triggers, not a polling interval.
static SWEEP_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(60);
// Off, since a server with a few databases has a process for each, and a relay that runs is faster.
static IDLE_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(0);
static SHUTDOWN_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(5_000);
// Off, since a dead letter is somebody's event that never arrived.
static DEAD_LETTER_RETENTION: GucSetting<i32> = GucSetting::<i32>::new(0);
// Off, since it is for audits.
static DEAD_LETTER_LOG_RETENTION: GucSetting<i32> = GucSetting::<i32>::new(0);
// Longer than callers repeat a request, weekends apart.
static IDEMPOTENCY_RETENTION: GucSetting<i32> = GucSetting::<i32>::new(86_400);

const MEBIBYTE: usize = 1024 * 1024;

pub(super) fn init() {
    init_limits();
    init_times();
    Guc::new(
        c"event_outbox.enabled",
        c"Publishes the events of the database.",
        c"When off, events are stored and wait.",
    )
    .boolean(&ENABLED);
    Guc::new(
        c"event_outbox.delivery",
        c"What a crash may do to events on their way.",
        c"\"at_least_once\": repeat them; \"at_most_once\": lose them; \"exactly_once\": neither, by transactions of Kafka.",
    )
    .choice(&DELIVERY);
    Guc::new(
        c"event_outbox.notify",
        c"How consumers in the database are told about published events.",
        c"\"batch\" sends one NOTIFY per topic, partition and settled batch, \"event\" one per event.",
    )
    .choice(&NOTIFY);
    Guc::new(
        c"event_outbox.ordering",
        c"What keeps its order.",
        c"\"key\": events with the same topic and key, so that a refused one holds back the later ones; \"none\": nothing waits for another.",
    )
    .choice(&ORDERING);
}

fn init_limits() {
    Guc::new(
        c"event_outbox.max_in_flight",
        c"Events handed to the producer and not yet acknowledged, at most.",
        c"Bounds what a crash may publish again; event_outbox.relay_memory bounds their bytes.",
    )
    .integer(&MAX_IN_FLIGHT, 1..=1_000_000, GucFlags::default());
    Guc::new(
        c"event_outbox.relay_memory",
        c"Memory that a relay may use beyond what it uses when idle.",
        c"When it is used up, events wait in the table. A single event is sent whatever its size.",
    )
    .integer(&RELAY_MEMORY, 8..=65_536, GucFlags::UNIT_MB);
    Guc::new(c"event_outbox.batch_size", c"Events read, and settled, in one transaction, at most.", c"")
        .integer(&BATCH_SIZE, 1..=100_000, GucFlags::default());
}

fn init_times() {
    Guc::new(
        c"event_outbox.dead_letter_retention",
        c"Time after which dead letters are deleted; 0 keeps them.",
        c"outbox.dead_letter_log keeps what is deleted, without the contents.",
    )
    .integer(&DEAD_LETTER_RETENTION, 0..=315_360_000, GucFlags::UNIT_S);
    Guc::new(
        c"event_outbox.dead_letter_log_retention",
        c"Time after which entries of outbox.dead_letter_log are deleted; 0 keeps them.",
        c"",
    )
    .integer(&DEAD_LETTER_LOG_RETENTION, 0..=315_360_000, GucFlags::UNIT_S);
    Guc::new(
        c"event_outbox.idempotency_retention",
        c"Time for which an idempotency key is known, at least.",
        c"Keys are removed together, so a key may be known for twice as long and longer.",
    )
    .integer(&IDEMPOTENCY_RETENTION, 1..=315_360_000, GucFlags::UNIT_S);
    Guc::new(
        c"event_outbox.sweep_interval",
        c"Time between full reads of the table.",
        c"The safety net for rows that came in past the triggers; others are found at once.",
    )
    .integer(&SWEEP_INTERVAL, 1..=86_400, GucFlags::UNIT_S);
    Guc::new(
        c"event_outbox.idle_timeout",
        c"Time without work after which a relay ends until it is needed; 0 keeps it running.",
        c"The next commit that emits, or the date of the next event, starts it again.",
    )
    .integer(&IDLE_TIMEOUT, 0..=86_400, GucFlags::UNIT_S);
    Guc::new(
        c"event_outbox.shutdown_timeout",
        c"Time that a stopping relay waits for Kafka's acknowledgements.",
        c"What is not acknowledged by then is published again by the next relay.",
    )
    .integer(&SHUTDOWN_TIMEOUT, 0..=600_000, GucFlags::UNIT_MS);
}

/// Whether the workers of a database exchange events with Kafka.
pub(super) fn enabled() -> bool {
    ENABLED.get()
}

/// Whether sessions are notified of events at all.
pub(super) fn notifies() -> bool {
    NOTIFY.get() != NotifySetting::Off
}

/// How long a stopping worker waits.
pub(super) fn shutdown_timeout() -> Duration {
    millis(&SHUTDOWN_TIMEOUT)
}

/// The settings that a relay works with until it reads them again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Whether to publish at all.
    pub enabled: bool,
    /// How to reach Kafka.
    pub producer: ProducerConfig,
    /// How much may be in flight.
    pub limits: Limits,
    /// The maximum number of events per transaction.
    pub batch_size: usize,
    /// How consumers in the database are notified.
    pub notify: Mode,
    /// Time between full sweeps.
    pub sweep_interval: Duration,
    /// Time without work after which the relay ends; zero means never.
    pub idle_timeout: Duration,
    /// How long a stopping relay waits for acknowledgements.
    pub shutdown_timeout: Duration,
    /// How long a dead letter is kept; zero means for ever.
    pub dead_letter_retention: Duration,
    /// How long the log of dead letters keeps its entries; zero means for ever.
    pub dead_letter_log_retention: Duration,
    /// How long an idempotency key is known.
    pub idempotency_retention: Duration,
}

impl Settings {
    /// Reads the current settings of this process. `default_source` is sent as the events' source if none is
    /// set.
    #[must_use]
    pub fn read(default_source: &str) -> Self {
        let max_in_flight = size(&MAX_IN_FLIGHT);
        Self {
            enabled: ENABLED.get(),
            producer: ProducerConfig {
                bootstrap_servers: kafka::bootstrap_servers(),
                properties: secret::value(),
                properties_file: kafka::properties_file(),
                envelope: envelope::envelope(default_source),
                auto_create_topics: kafka::auto_create_topics(),
                delivery: match DELIVERY.get() {
                    DeliverySetting::AtLeastOnce => DeliveryMode::AtLeastOnce,
                    DeliverySetting::AtMostOnce => DeliveryMode::AtMostOnce,
                    DeliverySetting::ExactlyOnce => DeliveryMode::ExactlyOnce,
                },
                ordered: ORDERING.get() == OrderingSetting::Key,
                max_in_flight,
                progress_topic: kafka::progress_topic(),
            },
            limits: Limits { events: max_in_flight, bytes: size(&RELAY_MEMORY) * MEBIBYTE / 2 },
            batch_size: size(&BATCH_SIZE),
            notify: match NOTIFY.get() {
                NotifySetting::Batch => Mode::Batch,
                NotifySetting::Event => Mode::Event,
                NotifySetting::Off => Mode::Off,
            },
            sweep_interval: seconds(&SWEEP_INTERVAL),
            idle_timeout: seconds(&IDLE_TIMEOUT),
            shutdown_timeout: millis(&SHUTDOWN_TIMEOUT),
            dead_letter_retention: seconds(&DEAD_LETTER_RETENTION),
            dead_letter_log_retention: seconds(&DEAD_LETTER_LOG_RETENTION),
            idempotency_retention: seconds(&IDEMPOTENCY_RETENTION),
        }
    }
}
