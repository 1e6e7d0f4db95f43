//! The producer of the contenders that run in the benchmark itself: librdkafka with exactly the extension's settings
//! (`src/kafka/config.rs`), so that none of them wins by its configuration.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};

const SETTINGS: [(&str, &str); 9] = [
    ("client.id", "event_outbox_bench"),
    ("partitioner", "murmur2_random"),
    ("linger.ms", "0"),
    ("enable.idempotence", "true"),
    ("acks", "all"),
    ("message.timeout.ms", "0"),
    ("message.max.bytes", "200000000"),
    ("queue.buffering.max.messages", "100000"),
    ("queue.buffering.max.kbytes", "2097151"),
];

/// How many messages to produce before serving callbacks again.
const SERVE_EVERY: u64 = 256;
const QUEUE_FULL_PAUSE: Duration = Duration::from_millis(1);
const FLUSH_POLL: Duration = Duration::from_millis(10);
const CONNECT_DEADLINE: Duration = Duration::from_secs(30);
const FLUSH_DEADLINE: Duration = Duration::from_secs(60);

/// The configuration of all these producers.
pub fn config(bootstrap_servers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    for (name, value) in SETTINGS {
        config.set(name, value);
    }
    config.set("bootstrap.servers", bootstrap_servers);
    config
}

/// A producer that counts its delivery reports.
pub struct Producer {
    inner: BaseProducer<Count>,
    sent: u64,
}

/// The counts of delivery reports.
#[derive(Default)]
struct Count {
    failed: AtomicU64,
}

impl ClientContext for Count {}

impl ProducerContext for Count {
    type DeliveryOpaque = ();

    fn delivery(&self, report: &DeliveryResult<'_>, _: ()) {
        if report.is_err() {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A record to send.
pub struct Outgoing<'a> {
    pub topic: &'a str,
    pub key: &'a [u8],
    pub payload: &'a [u8],
    pub timestamp_ms: i64,
}

impl Producer {
    /// Creates a producer, which is not connected yet.
    pub fn new(bootstrap_servers: &str) -> Result<Self> {
        let inner = BaseProducer::from_config_and_context(&config(bootstrap_servers), Count::default())?;
        Ok(Self { inner, sent: 0 })
    }

    /// Waits until the producer knows the topic. Records that are queued before would later be sent all at once, faster
    /// than they can be made.
    pub fn connect(&self, topic: &str) -> Result<()> {
        self.inner.client().fetch_metadata(Some(topic), CONNECT_DEADLINE)?;
        Ok(())
    }

    /// Hands over a record. Waits for room in the queue.
    pub fn send<'h>(
        &mut self,
        record: &Outgoing<'_>,
        headers: impl Iterator<Item = (&'h str, &'h [u8])>,
    ) -> Result<()> {
        let mut list = OwnedHeaders::new();
        for (key, value) in headers {
            list = list.insert(Header { key, value: Some(value) });
        }
        let mut message = BaseRecord::to(record.topic)
            .key(record.key)
            .payload(record.payload)
            .timestamp(record.timestamp_ms)
            .headers(list);
        while let Err((error, unsent)) = self.inner.send(message) {
            if error != KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) {
                return Err(error.into());
            }
            self.inner.poll(QUEUE_FULL_PAUSE);
            message = unsent;
        }
        self.sent += 1;
        if self.sent.is_multiple_of(SERVE_EVERY) {
            self.inner.poll(Duration::ZERO);
        }
        Ok(())
    }

    /// Waits until all records are acknowledged.
    pub fn flush(&self) -> Result<()> {
        // The crate's own flush can sleep for 100 ms after the last acknowledgement, so this does not use it.
        let begin = Instant::now();
        while self.inner.in_flight_count() > 0 {
            self.inner.poll(FLUSH_POLL);
            if begin.elapsed() > FLUSH_DEADLINE {
                bail!("{} records without an acknowledgement", self.inner.in_flight_count());
            }
        }
        match self.inner.context().failed.load(Ordering::Relaxed) {
            0 => Ok(()),
            failed => bail!("{failed} records were refused"),
        }
    }
}
