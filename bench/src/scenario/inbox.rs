//! `inbox`: the way from Kafka into the database, and from the inbox to those who receive.

pub mod beside;
pub mod flat;
pub mod idle;
pub mod ingest;
pub mod latency;
pub mod memory;
pub mod projection;
pub mod receive;
pub mod work;

use std::time::SystemTime;

use anyhow::Result;

use crate::contender::producer::{Outgoing, Producer};
use crate::events::{self, Load};
use crate::stage::{PARTITIONS, Stage};

/// Creates the load's topic and fills it.
pub fn produce(stage: &Stage, load: &Load) -> Result<()> {
    produce_into(stage, load, PARTITIONS)
}

/// The same with this number of partitions.
fn produce_into(stage: &Stage, load: &Load, partitions: i32) -> Result<()> {
    stage.broker().create_topic(&load.topic, partitions, &[])?;
    let mut producer = Producer::new(&stage.bootstrap_servers())?;
    producer.connect(&load.topic)?;
    let now_ms = i64::try_from(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_millis())?;
    for n in load.numbers.clone() {
        let (key, payload) = (events::key(n), events::payload(n, load.bytes));
        let (id, trace) = (events::id(n), events::trace(n));
        let record = Outgoing {
            topic: &load.topic,
            key: key.as_bytes(),
            payload: payload.as_bytes(),
            timestamp_ms: now_ms,
        };
        producer.send(&record, [("id", id.as_bytes()), ("trace", trace.as_bytes())].into_iter())?;
    }
    producer.flush()
}
