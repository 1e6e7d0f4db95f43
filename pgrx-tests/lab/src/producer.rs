//! A producer of raw records: with and without keys, values and headers, and in transactions.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rdkafka::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};
use rdkafka::types::RDKafkaErrorCode;

const DEADLINE: Duration = Duration::from_secs(30);
/// How long a producer whose queue is full waits before it tries again.
const PAUSE: Duration = Duration::from_millis(10);

/// A record to produce.
#[derive(Clone, Copy, Default)]
pub struct NewRecord<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The partition.
    pub partition: i32,
    /// The key, or none.
    pub key: Option<&'a [u8]>,
    /// The value; `None` makes a tombstone.
    pub value: Option<&'a [u8]>,
    /// The headers in their order; a name may repeat, a value may be null.
    pub headers: &'a [(&'a str, Option<&'a [u8]>)],
    /// CreateTime in milliseconds since 1970, instead of the present.
    pub timestamp_ms: Option<i64>,
}

/// The first refusal since the last look: a broker refuses whole batches, and a test would wait for what is nowhere.
#[derive(Default)]
struct Refusals(Mutex<Option<KafkaError>>);

impl ClientContext for Refusals {}

impl ProducerContext for Refusals {
    type DeliveryOpaque = ();

    fn delivery(&self, report: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = report {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| error.clone());
        }
    }
}

/// A producer.
pub struct Producer(BaseProducer<Refusals>);

impl Producer {
    /// A producer outside transactions.
    pub fn new(bootstrap_servers: &str) -> Result<Self> {
        Ok(Self(config(bootstrap_servers).create_with_context(Refusals::default())?))
    }

    /// A producer whose records belong to transactions.
    pub fn transactional(bootstrap_servers: &str, id: &str) -> Result<Self> {
        let producer: BaseProducer<_> =
            config(bootstrap_servers).set("transactional.id", id).create_with_context(Refusals::default())?;
        producer.init_transactions(DEADLINE)?;
        Ok(Self(producer))
    }

    /// Sends a record; [`Producer::flush`] waits until Kafka has it.
    pub fn send(&self, new: &NewRecord<'_>) -> Result<()> {
        let begin = Instant::now();
        loop {
            match self.0.send(record(new)) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _))
                    if begin.elapsed() < DEADLINE =>
                {
                    self.0.poll(PAUSE);
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
    }

    /// Sends a record for each number, whose value is the number, and whose key is that of `key`; waits until Kafka has all.
    pub fn send_numbers(
        &self,
        topic: &str,
        partition: i32,
        numbers: std::ops::Range<i64>,
        key: impl Fn(i64) -> Option<String>,
    ) -> Result<()> {
        for number in numbers {
            let (key, value) = (key(number), number.to_string());
            let (key, value) = (key.as_deref().map(str::as_bytes), Some(value.as_bytes()));
            self.send(&NewRecord { topic, partition, key, value, ..NewRecord::default() })?;
        }
        self.flush()
    }

    /// Waits until Kafka has all records that were sent.
    pub fn flush(&self) -> Result<()> {
        self.0.flush(DEADLINE)?;
        if self.0.in_flight_count() > 0 {
            bail!("{} records were not delivered", self.0.in_flight_count());
        }
        match self.0.context().0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(refusal) => bail!("Kafka refused a record: {refusal}"),
            None => Ok(()),
        }
    }

    /// Begins a transaction.
    pub fn begin(&self) -> Result<()> {
        Ok(self.0.begin_transaction()?)
    }

    /// Commits the transaction.
    pub fn commit(&self) -> Result<()> {
        Ok(self.0.commit_transaction(DEADLINE)?)
    }

    /// Aborts the transaction. Its records that have reached Kafka stay there, and nobody reads them.
    pub fn abort(&self) -> Result<()> {
        self.0.flush(DEADLINE)?;
        Ok(self.0.abort_transaction(DEADLINE)?)
    }
}

fn config(bootstrap_servers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap_servers).set("linger.ms", "5").set("log_level", "0");
    config
}

fn record<'a>(new: &NewRecord<'a>) -> BaseRecord<'a, [u8], [u8]> {
    let mut record = BaseRecord::to(new.topic).partition(new.partition);
    record.key = new.key;
    record.payload = new.value;
    record.timestamp = new.timestamp_ms;
    if !new.headers.is_empty() {
        let headers = new
            .headers
            .iter()
            .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: *value }));
        record = record.headers(headers);
    }
    record
}
