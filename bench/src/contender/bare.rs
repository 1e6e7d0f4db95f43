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

/// Produces at this pace from `begin` on. Notes when each record was handed to librdkafka, and when it was acknowledged.
pub fn produce(
    bootstrap_servers: &str,
    topic: &str,
    pace: Pace,
    begin: Instant,
    sent: &Times,
    acknowledged: Arc<Times>,
) -> Result<()> {
    let config = producer::config(bootstrap_servers);
    let producer: BaseProducer<Acks> = BaseProducer::from_config_and_context(&config, Acks(acknowledged))?;
    for n in 1..=pace.count.cast_signed() {
        // Serve acknowledgements while there is nothing to send.
        while let Some(left) = pace.due(n).checked_sub(begin.elapsed()) {
            producer.poll(left);
        }
        let (key, payload) = (events::key(n), events::payload(n, events::PAYLOAD_BYTES));
        let (id, trace) = (events::id(n), events::trace(n));
        let headers = OwnedHeaders::new_with_capacity(2)
            .insert(Header { key: "id", value: Some(&id) })
            .insert(Header { key: "trace", value: Some(&trace) });
        let opaque = usize::try_from(n)?;
        let record = BaseRecord::with_opaque_to(topic, opaque).key(&key).payload(&payload).headers(headers);
        sent.now(n);
        producer.send(record).map_err(|(error, _)| error)?;
    }
    let over = Instant::now();
    while producer.in_flight_count() > 0 {
        producer.poll(Duration::from_millis(10));
        if over.elapsed() > ACK_DEADLINE {
            bail!("{} records without an acknowledgement", producer.in_flight_count());
        }
    }
    Ok(())
}
