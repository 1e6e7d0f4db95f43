//! The bare loop: librdkafka alone at a given rate. No outbox can be faster.

use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rdkafka::ClientContext;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};

use super::producer;
use crate::events;
use crate::pace::{Pace, Times};

const ACK_DEADLINE: Duration = Duration::from_secs(30);

/// The pause between two looks for acknowledgements: within a transaction, and in the end.
const ACK_PAUSE: Duration = Duration::from_micros(50);
const LAST_ACK_PAUSE: Duration = Duration::from_millis(10);

/// Notes when each record was acknowledged.
struct Acks(Arc<Times>);

impl ClientContext for Acks {}

impl ProducerContext for Acks {
    type DeliveryOpaque = usize;

    fn delivery(&self, report: &DeliveryResult<'_>, n: usize) {
        if report.is_ok() {
            self.0.now(n as i64);
        }
    }
}

/// A producer without an outbox.
pub struct Bare {
    producer: BaseProducer<Acks>,
    /// Each record has a transaction of its own.
    transacts: bool,
}

impl Bare {
    /// Creates a producer that waits this long for more records before it sends one. `acknowledged` gets the time of each
    /// acknowledgement.
    pub fn new(bootstrap_servers: &str, linger: Duration, acknowledged: Arc<Times>) -> Result<Self> {
        let mut config = producer::config(bootstrap_servers);
        config.set("linger.ms", linger.as_millis().to_string());
        let producer = BaseProducer::from_config_and_context(&config, Acks(acknowledged))?;
        Ok(Self { producer, transacts: false })
    }

    /// Creates a producer that commits each record in a transaction of its own.
    pub fn transacting(bootstrap_servers: &str, acknowledged: Arc<Times>) -> Result<Self> {
        let mut config = producer::config(bootstrap_servers);
        config.set("transactional.id", "event_outbox_bench");
        let millis = ACK_DEADLINE.as_millis().to_string();
        config.set("transaction.timeout.ms", &millis).set("message.timeout.ms", &millis);
        let producer = BaseProducer::from_config_and_context(&config, Acks(acknowledged))?;
        producer.init_transactions(ACK_DEADLINE)?;
        Ok(Self { producer, transacts: true })
    }

    /// Produces at this pace from `begin` on, until all is acknowledged. Notes when each record was handed to librdkafka.
    pub fn produce(&self, topic: &str, pace: Pace, begin: Instant, sent: &Times) -> Result<()> {
        for n in 1..=pace.count.cast_signed() {
            // Serve acknowledgements while there is nothing to send.
            while let Some(left) = pace.due(n).checked_sub(begin.elapsed()) {
                self.producer.poll(left);
            }
            let (key, payload) = (events::key(n), events::payload(n, events::PAYLOAD_BYTES));
            let (id, trace) = (events::id(n), events::trace(n));
            let headers = OwnedHeaders::new_with_capacity(2)
                .insert(Header { key: "id", value: Some(&id) })
                .insert(Header { key: "trace", value: Some(&trace) });
            let opaque = usize::try_from(n)?;
            let record =
                BaseRecord::with_opaque_to(topic, opaque).key(&key).payload(&payload).headers(headers);
            sent.now(n);
            if self.transacts {
                self.producer.begin_transaction()?;
            }
            self.producer.send(record).map_err(|(error, _)| error)?;
            if self.transacts {
                self.until_acknowledged(ACK_PAUSE)?;
                self.producer.commit_transaction(ACK_DEADLINE)?;
            }
        }
        self.until_acknowledged(LAST_ACK_PAUSE)
    }

    /// Waits until all is acknowledged. A poll takes all of its time, even if an acknowledgement comes before.
    fn until_acknowledged(&self, pause: Duration) -> Result<()> {
        let begin = Instant::now();
        while self.producer.in_flight_count() > 0 {
            self.producer.poll(Duration::ZERO);
            if begin.elapsed() > ACK_DEADLINE {
                bail!("{} records without an acknowledgement", self.producer.in_flight_count());
            }
            sleep(pause);
        }
        Ok(())
    }
}
