//! From settings to a producer's configuration.

use std::fmt;
use std::path::{Path, PathBuf};

use event_outbox_policy::kafka::producer::ProducerConfig;
use event_outbox_policy::kafka::properties::{self, Properties, PropertyError};
use event_outbox_policy::kafka::redactor::Redactor;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaConfRes;

/// Why no configuration could be made.
#[derive(Debug)]
pub enum ConfigError {
    /// No broker is given.
    NoServers,
    /// The setting `event_outbox.kafka_properties` is wrong.
    Setting(PropertyError),
    /// The properties file is wrong.
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
    /// The file that is wrong. Its path is for the server's log: not everybody who sees the status may see it.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path, _) | Self::Unreadable(path, _) => Some(path),
            Self::NoServers | Self::Setting(_) => None,
        }
    }
}

/// What users may set otherwise: good defaults.
const DEFAULTS: [(&str, &str); 4] = [
    ("client.id", "event_outbox"),
    // What every Java client computes, so that a key's events meet those of other producers.
    ("partitioner", "murmur2_random"),
    // The first event of a quiet time goes at once; under load batches fill while requests are under way.
    ("linger.ms", "0"),
    // After an outage of days the first try comes within seconds of the broker's return.
    ("reconnect.backoff.max.ms", "5000"),
];

/// What the promises rest on. Settings that would contradict are refused before these are set.
const PROMISES: [(&str, &str); 4] = [
    // No repeats and no reordering by retries within a producer's life.
    ("enable.idempotence", "true"),
    // Published means: on all in-sync replicas.
    ("acks", "all"),
    // An event waits for days if need be; a timed-out one would leave a gap in its key's order.
    ("message.timeout.ms", "0"),
    // The broker knows its limit; a local one below it would refuse what the broker takes.
    ("message.max.bytes", "200000000"),
];

/// The producer's queue counts bytes too; the window in front of it is far smaller than this.
const QUEUE_KBYTES: &str = "2097151";

/// Whether a batch that the broker refuses stops the producer. The broker refuses what was sent behind it, for
/// the gap in the sequence; a producer that goes on would number it anew and send it, before the events of the
/// refused batch that come again.
const STOP_AT_GAPS: &str = "enable.gapless.guarantee";

/// Whether a broker that is set up so creates a topic that a producer asks for.
const CREATE_TOPICS: &str = "allow.auto.create.topics";

/// Whether a producer of this configuration makes the broker create topics.
#[must_use]
pub fn creates_topics(config: &ClientConfig) -> bool {
    config.get(CREATE_TOPICS) == Some("true")
}

/// The same configuration for a producer that goes on when a batch is refused.
#[must_use]
pub fn for_quarantine(config: &ClientConfig) -> ClientConfig {
    let mut config = config.clone();
    config.set(STOP_AT_GAPS, "false");
    config
}

/// The same connection for a client that only asks and creates.
#[must_use]
pub fn for_requests(config: &ClientConfig) -> ClientConfig {
    let mut config = for_quarantine(config);
    config.set("enable.idempotence", "false").set("statistics.interval.ms", "0");
    // To ask for a topic must not create it.
    config.set(CREATE_TOPICS, "false");
    config
}

/// What takes this configuration's secrets out of what librdkafka says.
#[must_use]
pub fn redactor(config: &ClientConfig) -> Redactor {
    Redactor::new(config.config_map())
}

/// An error of a client with this configuration in words, but for the values of properties: they may be secrets.
#[must_use]
pub fn describe_error(config: &ClientConfig, error: &KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, _, name, _) => {
            format!("librdkafka knows no property \"{name}\"")
        }
        KafkaError::ClientConfig(_, _, name, _) => format!("the value of property \"{name}\" is not valid"),
        other => redactor(config).redact(&other.to_string()),
    }
}

/// librdkafka's configuration for such a producer, the file read now.
///
/// # Errors
/// What is wrong with the settings or the file.
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
    for (name, value) in PROMISES {
        config.set(name, value);
    }
    config.set(STOP_AT_GAPS, producer.ordered.to_string());
    config.set(CREATE_TOPICS, producer.auto_create_topics.to_string());
    config.set("bootstrap.servers", &producer.bootstrap_servers);
    // Twice the window: what is returned and read again may meet its own first copy.
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
