//! The bare loop: librdkafka alone at a given rate. No outbox can be faster.

use std::sync::Arc;
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
pub struct Bare(BaseProducer<Acks>);

impl Bare {
    /// Creates a producer that waits this long for more records before it sends one. `acknowledged` gets the time of each
    /// acknowledgement.
    pub fn new(bootstrap_servers: &str, linger: Duration, acknowledged: Arc<Times>) -> Result<Self> {
        let mut config = producer::config(bootstrap_servers);
        config.set("linger.ms", linger.as_millis().to_string());
        Ok(Self(BaseProducer::from_config_and_context(&config, Acks(acknowledged))?))
    }

    /// Produces at this pace from `begin` on, until all is acknowledged. Notes when each record was handed to librdkafka.
    pub fn produce(&self, topic: &str, pace: Pace, begin: Instant, sent: &Times) -> Result<()> {
        for n in 1..=pace.count.cast_signed() {
            // Serve acknowledgements while there is nothing to send.
            while let Some(left) = pace.due(n).checked_sub(begin.elapsed()) {
                self.0.poll(left);
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
            self.0.send(record).map_err(|(error, _)| error)?;
        }
        let over = Instant::now();
        while self.0.in_flight_count() > 0 {
            self.0.poll(Duration::from_millis(10));
            if over.elapsed() > ACK_DEADLINE {
                bail!("{} records without an acknowledgement", self.0.in_flight_count());
            }
        }
        Ok(())
    }
}
