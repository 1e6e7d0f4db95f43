//! Owns the settings for the connection to Kafka.

use std::ffi::CString;
use std::path::PathBuf;

use pgrx::{GucFlags, GucRegistry, GucSetting};

use super::{CONTEXT, Guc, secret, text};

// The address in Kafka's quick start, so that a first try works without configuration.
static BOOTSTRAP_SERVERS: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c"localhost:9092"));
static KAFKA_PROPERTIES: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static KAFKA_PROPERTIES_FILE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
// Off, so that a misspelt name is refused and does not become a topic with the brokers' defaults.
static AUTO_CREATE_TOPICS: GucSetting<bool> = GucSetting::<bool>::new(false);

// A name of its own, so that it is none of the application's.
static PROGRESS_TOPIC: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c"event-outbox-progress"));

pub(super) fn init() {
    Guc::new(
        c"event_outbox.bootstrap_servers",
        c"Kafka brokers to start from.",
        c"A list of host:port, separated by commas.",
    )
    .text(&BOOTSTRAP_SERVERS);
    // SAFETY: the hooks have the signatures of GUC hooks and follow their rules; see each.
    unsafe {
        GucRegistry::define_string_guc_with_hooks(
            c"event_outbox.kafka_properties",
            c"librdkafka properties of the producer.",
            c"A list of key=value, separated by commas; write a comma within a value as \\,. Never shown.",
            &KAFKA_PROPERTIES,
            CONTEXT,
            GucFlags::SUPERUSER_ONLY | GucFlags::NO_SHOW_ALL,
            Some(secret::take_aside),
            Some(secret::keep_aside),
            Some(secret::show_hidden),
        );
        GucRegistry::define_string_guc_with_hooks(
            c"event_outbox.kafka_properties_file",
            c"File of librdkafka properties of the producer.",
            c"One key=value a line, readable by the server only; the place for secrets. Set by superusers alone.",
            &KAFKA_PROPERTIES_FILE,
            CONTEXT,
            GucFlags::SUPERUSER_ONLY,
            Some(secret::check_file),
            None,
            None,
        );
    }
    Guc::new(
        c"event_outbox.auto_create_topics",
        c"Lets Kafka create a topic that an event names.",
        c"It does so where the brokers' auto.create.topics.enable is on too.",
    )
    .boolean(&AUTO_CREATE_TOPICS);
    Guc::new(
        c"event_outbox.progress_topic",
        c"Topic in which relays that deliver exactly once tell the next ones what they have published.",
        c"Compacted, with one partition; created when it is missing. Servers may share it.",
    )
    .text(&PROGRESS_TOPIC);
}

/// The bootstrap servers, `host:port,…`.
pub(super) fn bootstrap_servers() -> String {
    text(&BOOTSTRAP_SERVERS)
}

/// The file of librdkafka properties, if one is set.
pub(super) fn properties_file() -> Option<PathBuf> {
    Some(text(&KAFKA_PROPERTIES_FILE)).filter(|path| !path.is_empty()).map(Into::into)
}

/// The topic of the markers of delivery exactly once.
pub(super) fn progress_topic() -> String {
    text(&PROGRESS_TOPIC)
}

/// Whether Kafka may create a topic because an event names it.
pub(super) fn auto_create_topics() -> bool {
    AUTO_CREATE_TOPICS.get()
}
