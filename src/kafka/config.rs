//! Turns settings into librdkafka's configuration.
//!
//! Runs in: the relay's main thread. The other threads read the finished configuration.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use event_outbox_policy::delivery::transaction::MOST_IN_FLIGHT;
use event_outbox_policy::kafka::consumer::{self, ConsumerConfig};
use event_outbox_policy::kafka::producer::ProducerConfig;
use event_outbox_policy::kafka::properties::{self, Properties, PropertyError, Role};
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

/// Defaults of all clients, which users may override.
const DEFAULTS: [(&str, &str); 2] = [
    ("client.id", "event_outbox"),
    // After an outage of days, the next attempt still comes within seconds of the broker's return.
    ("reconnect.backoff.max.ms", "5000"),
];

/// Defaults of producers.
const PRODUCER_DEFAULTS: [(&str, &str); 2] = [
    // Java clients use the same function, so a key's events go to the same partition as those of other producers.
    ("partitioner", "murmur2_random"),
    // After a quiet time the first event is sent at once. Under load, batches fill while requests are in flight.
    ("linger.ms", "0"),
];

/// Defaults of consumers.
const CONSUMER_DEFAULTS: [(&str, &str); 4] = [
    // Events of transactions that were aborted do not exist.
    ("isolation.level", "read_committed"),
    // A broker answers as soon as it has a record, so a long wait only makes an idle consumer cheap.
    ("fetch.wait.max.ms", "1000"),
    // librdkafka's default stops fetching for a second whenever its queue is full for a moment.
    ("fetch.queue.backoff.ms", "10"),
    ("queued.min.messages", "20000"),
];

/// The properties on which the guarantees of consumers rest. User settings that contradict them are refused before.
const CONSUMER_GUARANTEES: [(&str, &str); 6] = [
    // Offsets are stored with the events, in the database.
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    // An offset that is gone stops its partition, and nothing is skipped in silence.
    ("auto.offset.reset", "error"),
    // The end of a partition is also its position behind control records and aborted transactions.
    ("enable.partition.eof", "true"),
    ("check.crcs", "true"),
    (CREATE_TOPICS, "false"),
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

/// librdkafka's limit of queued messages.
const QUEUE_MESSAGES: &str = "queue.buffering.max.messages";

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

/// The same configuration for the producer that sends each event once. Requests that no broker can have carried out are
/// repeated all the same, and two of them on their way could then change places.
#[must_use]
pub fn for_once(config: &ClientConfig) -> ClientConfig {
    let mut config = config.clone();
    let is_ordered = config.get(STOP_AT_GAPS) == Some("true");
    config.set(STOP_AT_GAPS, "false").set("enable.idempotence", "false").set("retries", "0");
    if is_ordered {
        config.set("max.in.flight.requests.per.connection", "1");
    }
    config
}

/// How long Kafka keeps a transaction open of which it hears nothing, in milliseconds, unless the user sets it. librdkafka's
/// default, and below the limit that brokers have by default (`transaction.max.timeout.ms`).
const TRANSACTION_MILLIS: u64 = 60_000;

const TRANSACTION_TIMEOUT: &str = "transaction.timeout.ms";

/// How long Kafka keeps a transaction of a producer with this configuration open.
#[must_use]
pub fn transaction_timeout(config: &ClientConfig) -> Duration {
    let millis = config.get(TRANSACTION_TIMEOUT).and_then(|text| text.parse().ok());
    Duration::from_millis(millis.unwrap_or(TRANSACTION_MILLIS))
}

/// The same configuration for a producer of transactions. An aborted transaction keeps order without gaps that stop it.
#[must_use]
pub fn for_transactions(config: &ClientConfig, transactional_id: &str) -> ClientConfig {
    let mut config = config.clone();
    let millis = transaction_timeout(&config).as_millis().to_string();
    config.set("transactional.id", transactional_id).set(STOP_AT_GAPS, "false");
    config.set(QUEUE_MESSAGES, (2 * MOST_IN_FLIGHT).to_string());
    // librdkafka waits for no record longer than for its transaction.
    config.set(TRANSACTION_TIMEOUT, &millis).set("message.timeout.ms", &millis);
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
    let connection = Connection {
        servers: &producer.bootstrap_servers,
        properties: &producer.properties,
        file: producer.properties_file.as_deref(),
    };
    let mut config = connection.config(Role::Producer, &PRODUCER_DEFAULTS)?;
    for (name, value) in GUARANTEES {
        config.set(name, value);
    }
    config.set(STOP_AT_GAPS, producer.ordered.to_string());
    config.set(CREATE_TOPICS, producer.auto_create_topics.to_string());
    // Twice the window: an event that is returned and read again may be queued beside its first copy.
    config.set(QUEUE_MESSAGES, (2 * producer.max_in_flight).to_string());
    config.set("queue.buffering.max.kbytes", QUEUE_KBYTES);
    Ok(config)
}

/// Reads the properties file, and returns librdkafka's configuration for this consumer.
///
/// # Errors
/// The settings or the file are invalid.
pub fn consumer_config(consumer: &ConsumerConfig) -> Result<ClientConfig, ConfigError> {
    let connection = Connection {
        servers: &consumer.bootstrap_servers,
        properties: &consumer.properties,
        file: consumer.properties_file.as_deref(),
    };
    let mut config = connection.config(Role::Consumer, &CONSUMER_DEFAULTS)?;
    for (name, value) in CONSUMER_GUARANTEES {
        config.set(name, value);
    }
    for (name, value) in consumer::memory_properties(consumer.memory) {
        config.set(name, value.to_string());
    }
    Ok(config)
}

/// The same configuration for a consumer that hears of it when a topic was created again. librdkafka reads on from the old
/// offset then, and nothing but a line of its log for debugging says so.
#[must_use]
pub fn telling_topic_ids(mut config: ClientConfig) -> ClientConfig {
    let debug = config.get("debug").filter(|contexts| !contexts.is_empty());
    let debug = debug.map_or_else(|| "topic".to_owned(), |contexts| format!("{contexts},topic"));
    config.set("debug", debug).set_log_level(RDKafkaLogLevel::Debug);
    config
}

/// How much memory a consumer takes that looks at a few records: as little as `event_outbox.consumer_memory` allows.
const PEEK_MEMORY: usize = 8 << 20;

/// Reads the properties file, and returns librdkafka's configuration for a consumer that looks at a few records, with the
/// connection of this producer.
///
/// # Errors
/// The settings or the file are invalid.
pub fn for_peek(producer: &ProducerConfig) -> Result<ClientConfig, ConfigError> {
    let mut config = consumer_config(&ConsumerConfig {
        bootstrap_servers: producer.bootstrap_servers.clone(),
        properties: producer.properties.clone(),
        properties_file: producer.properties_file.clone(),
        memory: PEEK_MEMORY,
    })?;
    // The end of a partition is known when a request for more has found nothing.
    config.set("fetch.wait.max.ms", "100").set("statistics.interval.ms", "0");
    Ok(config)
}

/// Reads the properties file, and returns librdkafka's configuration for the consumer that reads markers, with the connection
/// of this producer.
///
/// # Errors
/// The settings or the file are invalid.
pub fn for_progress(producer: &ProducerConfig) -> Result<ClientConfig, ConfigError> {
    let mut config = for_peek(producer)?;
    // A marker of a transaction that is not committed says nothing.
    config.set("isolation.level", "read_committed");
    Ok(config)
}

/// What all clients of a database have in common.
struct Connection<'a> {
    servers: &'a str,
    properties: &'a str,
    file: Option<&'a Path>,
}

impl Connection<'_> {
    /// The defaults and the user's properties, for a client of this role.
    fn config(&self, role: Role, defaults: &[(&str, &str)]) -> Result<ClientConfig, ConfigError> {
        if self.servers.trim().is_empty() {
            return Err(ConfigError::NoServers);
        }
        let mut config = ClientConfig::new();
        config.set_log_level(RDKafkaLogLevel::Info);
        for (name, value) in DEFAULTS.iter().chain(defaults) {
            config.set(*name, *value);
        }
        for (name, value) in properties::of_role(all_properties(self.properties, self.file)?, role) {
            config.set(name, value);
        }
        config.set("bootstrap.servers", self.servers);
        Ok(config)
    }
}

/// The user's properties of all kinds of clients: those of the setting, then those of the file, which override them.
///
/// # Errors
/// The setting or the file is invalid.
pub fn all_properties(setting: &str, file: Option<&Path>) -> Result<Properties, ConfigError> {
    let mut all = properties::parse_setting(setting).map_err(ConfigError::Setting)?;
    if let Some(path) = file {
        let text =
            std::fs::read_to_string(path).map_err(|error| ConfigError::Unreadable(path.to_owned(), error))?;
        let of_file =
            properties::parse_file(&text).map_err(|error| ConfigError::File(path.to_owned(), error))?;
        all.extend(of_file);
    }
    Ok(all)
}
