//! The GUCs, and the snapshot of them that a relay works with.

use std::ffi::{CStr, CString, c_char, c_void};
use std::time::Duration;

use event_outbox_policy::delivery::notify::Mode;
use event_outbox_policy::event::envelope::{Envelope, MAX_SOURCE_BYTES};
use event_outbox_policy::event::size::LARGEST_EVENT;
use event_outbox_policy::event::topic;
use event_outbox_policy::kafka::producer::ProducerConfig;
use pgrx::prelude::*;
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};

pub mod secret;

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

/// `event_outbox.envelope`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
enum EnvelopeSetting {
    #[name = c"cloudevents"]
    CloudEvents,
    #[name = c"none"]
    None,
}

// On: whoever creates the extension wants its events published.
static ENABLED: GucSetting<bool> = GucSetting::<bool>::new(true);
// Kafka's own quick start, so that the first try works without configuration.
static BOOTSTRAP_SERVERS: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c"localhost:9092"));
static KAFKA_PROPERTIES: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static KAFKA_PROPERTIES_FILE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
// Enough to keep five requests of full batches under way to each of several brokers.
static MAX_IN_FLIGHT: GucSetting<i32> = GucSetting::<i32>::new(50_000);
// A read and a settlement of some ten milliseconds each: long enough to be cheap per event, short
// enough that interrupts are answered.
// Half of it for events in flight; the other half is what a batch takes while it is read and settled.
static RELAY_MEMORY: GucSetting<i32> = GucSetting::<i32>::new(64);
static BATCH_SIZE: GucSetting<i32> = GucSetting::<i32>::new(5_000);
static NOTIFY: GucSetting<NotifySetting> = GucSetting::<NotifySetting>::new(NotifySetting::Batch);
static ENVELOPE: GucSetting<EnvelopeSetting> =
    GucSetting::<EnvelopeSetting>::new(EnvelopeSetting::CloudEvents);
static SOURCE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
// Just below Kafka's own default limit of a record batch (1048588), so that what is accepted can be sent.
static MAX_EVENT_BYTES: GucSetting<i32> = GucSetting::<i32>::new(1_000_000);
// A safety net for what bypasses triggers, not a polling interval.
static SWEEP_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(60);
static SHUTDOWN_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(5_000);
// Enough for a mistake that is mended within minutes, few enough that nobody waits long behind it.
static MAX_ATTEMPTS: GucSetting<i32> = GucSetting::<i32>::new(3);
static DEAD_LETTER_TOPIC: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
// Off: a misspelt name is to be refused, not to become a topic with whatever the brokers' defaults are.
static AUTO_CREATE_TOPICS: GucSetting<bool> = GucSetting::<bool>::new(false);
static ORDERING: GucSetting<OrderingSetting> = GucSetting::<OrderingSetting>::new(OrderingSetting::Key);
// Longer than a deployment takes that creates topics and grants rights a moment too late, short enough that a misspelt
// name is noticed while its author is still there.
static GRACE_PERIOD: GucSetting<i32> = GucSetting::<i32>::new(60_000);
static RETRY_BACKOFF: GucSetting<i32> = GucSetting::<i32>::new(1_000);
static RETRY_BACKOFF_MAX: GucSetting<i32> = GucSetting::<i32>::new(300_000);

/// `event_outbox.ordering`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
enum OrderingSetting {
    #[name = c"key"]
    Key,
    #[name = c"none"]
    None,
}

/// What the names of all settings begin with.
pub const PREFIX: &str = "event_outbox.";

const MEBIBYTE: usize = 1024 * 1024;

/// Defines the GUCs. Those that a relay reads are settable per database (`ALTER DATABASE … SET`), by
/// superusers alone: they decide where a database's events go.
pub fn init() {
    let context = || GucContext::Suset;
    let hidden = GucFlags::SUPERUSER_ONLY | GucFlags::NO_SHOW_ALL;
    GucRegistry::define_bool_guc(
        c"event_outbox.enabled",
        c"Publishes the events of the database.",
        c"When off, events are stored and wait.",
        &ENABLED,
        context(),
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"event_outbox.bootstrap_servers",
        c"Kafka brokers to start from.",
        c"A list of host:port, separated by commas.",
        &BOOTSTRAP_SERVERS,
        context(),
        GucFlags::default(),
    );
    // SAFETY: the hooks have the signatures and keep the rules of GUC hooks; see each.
    unsafe {
        GucRegistry::define_string_guc_with_hooks(
            c"event_outbox.kafka_properties",
            c"librdkafka properties of the producer.",
            c"A list of key=value, separated by commas; write a comma within a value as \\,. Never shown.",
            &KAFKA_PROPERTIES,
            context(),
            hidden,
            Some(secret::take_aside),
            Some(secret::keep_aside),
            Some(secret::show_hidden),
        );
    }
    // SAFETY: the hook has the signature of a check hook and changes nothing.
    unsafe {
        GucRegistry::define_string_guc_with_hooks(
            c"event_outbox.kafka_properties_file",
            c"File of librdkafka properties of the producer.",
            c"One key=value a line, readable by the server only; the place for secrets. Set by superusers alone.",
            &KAFKA_PROPERTIES_FILE,
            context(),
            GucFlags::SUPERUSER_ONLY,
            Some(secret::check_file),
            None,
            None,
        );
    }
    GucRegistry::define_int_guc(
        c"event_outbox.max_in_flight",
        c"Events handed to the producer and not yet acknowledged, at most.",
        c"Bounds what a crash may publish again; event_outbox.relay_memory bounds their bytes.",
        &MAX_IN_FLIGHT,
        1,
        1_000_000,
        context(),
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"event_outbox.relay_memory",
        c"Memory that a relay may use beyond what it uses when idle.",
        c"When it is used up, events wait in the table. A single event is sent whatever its size.",
        &RELAY_MEMORY,
        8,
        65_536,
        context(),
        GucFlags::UNIT_MB,
    );
    GucRegistry::define_int_guc(
        c"event_outbox.batch_size",
        c"Events read, and settled, in one transaction, at most.",
        c"",
        &BATCH_SIZE,
        1,
        100_000,
        context(),
        GucFlags::default(),
    );
    GucRegistry::define_enum_guc(
        c"event_outbox.notify",
        c"How consumers in the database are told about published events.",
        c"\"batch\" sends one NOTIFY per topic, partition and settled batch, \"event\" one per event.",
        &NOTIFY,
        context(),
        GucFlags::default(),
    );
    GucRegistry::define_enum_guc(
        c"event_outbox.envelope",
        c"Headers written around each event.",
        c"\"cloudevents\" writes those of the CloudEvents 1.0 Kafka binding, \"none\" only the author's own.",
        &ENVELOPE,
        context(),
        GucFlags::default(),
    );
    // SAFETY: the hook has the signature of a check hook and changes nothing.
    unsafe {
        GucRegistry::define_string_guc_with_hooks(
            c"event_outbox.source",
            c"The CloudEvents source of this database's events, a URI of up to 1000 bytes.",
            c"If empty, postgresql://CLUSTER/DATABASE with cluster_name or else the system identifier.",
            &SOURCE,
            context(),
            GucFlags::default(),
            Some(check_source),
            None,
            None,
        );
    }
    GucRegistry::define_int_guc(
        c"event_outbox.max_event_bytes",
        c"Size of an event, at most.",
        c"Payload, key, headers, type and content type together. What the outbox itself adds is some two thousand bytes at most.",
        &MAX_EVENT_BYTES,
        1,
        LARGEST_EVENT as i32,
        context(),
        GucFlags::UNIT_BYTE,
    );
    GucRegistry::define_int_guc(
        c"event_outbox.sweep_interval",
        c"Time between full reads of the table.",
        c"The safety net for rows that came in past the triggers; others are found at once.",
        &SWEEP_INTERVAL,
        1,
        86_400,
        context(),
        GucFlags::UNIT_S,
    );
    GucRegistry::define_int_guc(
        c"event_outbox.shutdown_timeout",
        c"Time that a stopping relay waits for Kafka's acknowledgements.",
        c"What is not acknowledged by then is published again by the next relay.",
        &SHUTDOWN_TIMEOUT,
        0,
        600_000,
        context(),
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"event_outbox.max_attempts",
        c"Refusals after which an event is dead.",
        c"A dead event is kept in outbox.dead_letters and never tried again by itself. Also limits outbox.try_emit().",
        &MAX_ATTEMPTS,
        1,
        1_000_000,
        context(),
        GucFlags::default(),
    );
    // SAFETY: the hook has the signature of a check hook and changes nothing.
    unsafe {
        GucRegistry::define_string_guc_with_hooks(
            c"event_outbox.dead_letter_topic",
            c"Kafka topic to which a copy of each dead event is sent.",
            c"If empty, none is sent.",
            &DEAD_LETTER_TOPIC,
            context(),
            GucFlags::default(),
            Some(check_topic),
            None,
            None,
        );
    }
    GucRegistry::define_bool_guc(
        c"event_outbox.auto_create_topics",
        c"Lets Kafka create a topic that an event names.",
        c"It does so where the brokers' auto.create.topics.enable is on too.",
        &AUTO_CREATE_TOPICS,
        context(),
        GucFlags::default(),
    );
    GucRegistry::define_enum_guc(
        c"event_outbox.ordering",
        c"What keeps its order.",
        c"\"key\": events with the same topic and key, so that a refused one holds back the later ones; \"none\": nothing waits for another.",
        &ORDERING,
        context(),
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"event_outbox.grace_period",
        c"Time for which an event is tried at least whose topic is missing or closed to the relay.",
        c"Others can create the topic or grant the right; max_attempts counts only after that time.",
        &GRACE_PERIOD,
        0,
        86_400_000,
        context(),
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"event_outbox.retry_backoff",
        c"Time before a refused event is tried again; doubled at each further refusal.",
        c"",
        &RETRY_BACKOFF,
        1,
        86_400_000,
        context(),
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"event_outbox.retry_backoff_max",
        c"Longest time between two attempts of a refused event.",
        c"",
        &RETRY_BACKOFF_MAX,
        1,
        86_400_000,
        context(),
        GucFlags::UNIT_MS,
    );
}

/// Check hook: empty, or a name that Kafka accepts.
unsafe extern "C-unwind" fn check_topic(
    value: *mut *mut c_char,
    _extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: Postgres passes a C string.
    let name = unsafe { CStr::from_ptr(*value) }.to_bytes();
    name.is_empty() || std::str::from_utf8(name).is_ok_and(topic::is_valid)
}

/// Check hook: short enough to be sent with every event.
unsafe extern "C-unwind" fn check_source(
    value: *mut *mut c_char,
    _extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: Postgres passes a C string.
    unsafe { CStr::from_ptr(*value) }.count_bytes() <= MAX_SOURCE_BYTES
}

/// The size of an event, at most, in bytes.
pub fn max_event_bytes() -> usize {
    size(&MAX_EVENT_BYTES)
}

/// Refusals after which an event is dead.
pub fn max_attempts() -> i32 {
    MAX_ATTEMPTS.get()
}

/// How long an event is tried at least whose refusal others can do something about.
pub fn grace_period() -> Duration {
    millis(&GRACE_PERIOD)
}

/// The first delay after a refusal, and the longest.
pub fn retry_backoff() -> (Duration, Duration) {
    (millis(&RETRY_BACKOFF), millis(&RETRY_BACKOFF_MAX))
}

/// How much may be in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Events.
    pub events: usize,
    /// Bytes of memory, by `Event::weight`.
    pub bytes: usize,
}

/// What a relay goes by until it next looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Whether to publish at all.
    pub enabled: bool,
    /// How to reach Kafka.
    pub producer: ProducerConfig,
    /// How much may be in flight.
    pub limits: Limits,
    /// Events per transaction, at most.
    pub batch_size: usize,
    /// How consumers are told.
    pub notify: Mode,
    /// Time between full sweeps.
    pub sweep_interval: Duration,
    /// How long a stopping relay waits.
    pub shutdown_timeout: Duration,
}

impl Settings {
    /// The settings as they are now, in this process. `default_source` is sent as the events' source
    /// where none is set.
    #[must_use]
    pub fn read(default_source: &str) -> Self {
        let max_in_flight = size(&MAX_IN_FLIGHT);
        Self {
            enabled: ENABLED.get(),
            producer: ProducerConfig {
                bootstrap_servers: text(&BOOTSTRAP_SERVERS),
                properties: secret::value(),
                properties_file: Some(text(&KAFKA_PROPERTIES_FILE))
                    .filter(|path| !path.is_empty())
                    .map(Into::into),
                envelope: envelope(default_source),
                auto_create_topics: AUTO_CREATE_TOPICS.get(),
                ordered: ORDERING.get() == OrderingSetting::Key,
                max_in_flight,
            },
            limits: Limits { events: max_in_flight, bytes: size(&RELAY_MEMORY) * MEBIBYTE / 2 },
            batch_size: size(&BATCH_SIZE),
            notify: match NOTIFY.get() {
                NotifySetting::Batch => Mode::Batch,
                NotifySetting::Event => Mode::Event,
                NotifySetting::Off => Mode::Off,
            },
            sweep_interval: Duration::from_secs(SWEEP_INTERVAL.get().unsigned_abs().into()),
            shutdown_timeout: millis(&SHUTDOWN_TIMEOUT),
        }
    }
}

fn envelope(default_source: &str) -> Envelope {
    match ENVELOPE.get() {
        EnvelopeSetting::None => Envelope::None,
        EnvelopeSetting::CloudEvents => {
            let source = text(&SOURCE);
            Envelope::CloudEvents {
                source: if source.is_empty() { default_source.to_owned() } else { source },
            }
        }
    }
}

fn text(setting: &GucSetting<Option<CString>>) -> String {
    setting.get().map(|value| value.to_string_lossy().into_owned()).unwrap_or_default()
}

// The minimum of each setting is not negative, so that no sign is lost below.

fn size(setting: &GucSetting<i32>) -> usize {
    setting.get().unsigned_abs() as usize
}

fn millis(setting: &GucSetting<i32>) -> Duration {
    Duration::from_millis(setting.get().unsigned_abs().into())
}
