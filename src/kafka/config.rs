//! Turns settings into librdkafka's configuration.
//!
//! Runs in: the relay's main thread. The other threads read the finished configuration.

use std::fmt;
use std::path::{Path, PathBuf};

use event_outbox_policy::kafka::producer::ProducerConfig;
use event_outbox_policy::kafka::properties::{self, Properties, PropertyError};
use event_outbox_policy::kafka::redactor::Redactor;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaConfRes;

/// Why the settings yield no configuration.
#[derive(Debug)]
pub enum ConfigError {
    /// The setting names no broker.
    NoServers,
    /// The setting `event_outbox.kafka_properties` is invalid.
    Setting(PropertyError),
    /// The properties file is invalid.
    File(PathBuf, PropertyError),
    /// The properties file cannot be read.
    Unreadable(PathBuf, std::io::Error),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoServers => f.write_str("event_outbox.bootstrap_servers is empty"),
            Self::Setting(error) => write!(f, "event_outbox.kafka_properties: {error}"),
            Self::File(_, error) => write!(f, "event_outbox.kafka_properties_file: {error}"),
            Self::Unreadable(_, error) => write!(f, "event_outbox.kafka_properties_file: {error}"),
        }
    }
}

impl ConfigError {
    /// The file at fault. Its path is for the server's log only: not everyone who can see the status may see the path.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path, _) | Self::Unreadable(path, _) => Some(path),
            Self::NoServers | Self::Setting(_) => None,
        }
    }
}

/// Defaults, which users may override.
const DEFAULTS: [(&str, &str); 4] = [
    ("client.id", "event_outbox"),
    // Java clients use the same function, so a key's events go to the same partition as those of other producers.
    ("partitioner", "murmur2_random"),
    // After a quiet time the first event is sent at once. Under load, batches fill while requests are in flight.
    ("linger.ms", "0"),
    // After an outage of days, the next attempt still comes within seconds of the broker's return.
    ("reconnect.backoff.max.ms", "5000"),
];

/// The properties on which the guarantees rest. User settings that contradict them are refused before.
const GUARANTEES: [(&str, &str); 4] = [
    // Retries neither repeat nor reorder events within a producer's life.
    ("enable.idempotence", "true"),
    // An event counts as published when all in-sync replicas have it.
    ("acks", "all"),
    // An event waits for days if necessary; a timeout would leave a gap in the order of its key.
    ("message.timeout.ms", "0"),
    // The broker knows its limit; a lower local limit would refuse events that the broker accepts.
    ("message.max.bytes", "200000000"),
];

/// librdkafka's limit of queued kilobytes, at its maximum: the window of events in flight is far smaller.
const QUEUE_KBYTES: &str = "2097151";

/// Whether a batch that the broker refuses stops the producer. The broker also refuses the batches that were sent after
/// it, because of the gap in the sequence. A producer that continued would renumber and send these before the events of
/// the refused batch are retried.
const STOP_AT_GAPS: &str = "enable.gapless.guarantee";

/// Whether a producer's metadata request creates a missing topic, if the broker's configuration allows it.
const CREATE_TOPICS: &str = "allow.auto.create.topics";

/// Whether a producer with this configuration makes the broker create topics.
#[must_use]
pub fn creates_topics(config: &ClientConfig) -> bool {
    config.get(CREATE_TOPICS) == Some("true")
}

/// The same configuration for the quarantine producer, which continues when a batch is refused.
#[must_use]
pub fn for_quarantine(config: &ClientConfig) -> ClientConfig {
    let mut config = config.clone();
    config.set(STOP_AT_GAPS, "false");
    config
}

/// The same connection for a client that sends only admin and metadata requests.
#[must_use]
pub fn for_requests(config: &ClientConfig) -> ClientConfig {
    let mut config = for_quarantine(config);
    config.set("enable.idempotence", "false").set("statistics.interval.ms", "0");
    // Asking for a topic must not create it.
    config.set(CREATE_TOPICS, "false");
    config
}

/// The redactor that removes this configuration's secrets from librdkafka's texts.
#[must_use]
pub fn redactor(config: &ClientConfig) -> Redactor {
    Redactor::new(config.config_map())
}

/// The text of an error of a client with this configuration, without the values of properties, which may be secrets.
#[must_use]
pub fn describe_error(config: &ClientConfig, error: &KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, _, name, _) => {
            format!("unknown librdkafka property \"{name}\"")
        }
        KafkaError::ClientConfig(_, _, name, _) => format!("invalid value for property \"{name}\""),
        other => redactor(config).redact(&other.to_string()),
    }
}

/// Reads the properties file, and returns librdkafka's configuration for this producer.
///
/// # Errors
/// The settings or the file are invalid.
pub fn client_config(producer: &ProducerConfig) -> Result<ClientConfig, ConfigError> {
    if producer.bootstrap_servers.trim().is_empty() {
        return Err(ConfigError::NoServers);
    }
    let mut config = ClientConfig::new();
    config.set_log_level(RDKafkaLogLevel::Info);
    for (name, value) in DEFAULTS {
        config.set(name, value);
    }
    for (name, value) in all_properties(producer)? {
        config.set(name, value);
    }
    for (name, value) in GUARANTEES {
        config.set(name, value);
    }
    config.set(STOP_AT_GAPS, producer.ordered.to_string());
    config.set(CREATE_TOPICS, producer.auto_create_topics.to_string());
    config.set("bootstrap.servers", &producer.bootstrap_servers);
    // Twice the window: an event that is returned and read again may be queued beside its first copy.
    config.set("queue.buffering.max.messages", (2 * producer.max_in_flight).to_string());
    config.set("queue.buffering.max.kbytes", QUEUE_KBYTES);
    Ok(config)
}

fn all_properties(producer: &ProducerConfig) -> Result<Properties, ConfigError> {
    let mut all = properties::parse_setting(&producer.properties).map_err(ConfigError::Setting)?;
    if let Some(path) = &producer.properties_file {
        let text =
            std::fs::read_to_string(path).map_err(|error| ConfigError::Unreadable(path.clone(), error))?;
        all.extend(properties::parse_file(&text).map_err(|error| ConfigError::File(path.clone(), error))?);
    }
    Ok(all)
}
