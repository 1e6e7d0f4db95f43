//! `inbox`: the way from Kafka into the database, and from the inbox to those who receive.

mod ingest;
mod latency;
mod receive;

use std::time::SystemTime;

use anyhow::{Context, Result};

use super::Bench;
use crate::contender::producer::{Outgoing, Producer};
use crate::events::{self, Load};
use crate::stage::{Stage, Wal};

/// Measures storing, receiving and the latency of both.
pub fn run(bench: &mut Bench) -> Result<()> {
    bench.stage.restart(Wal::Replica)?;
    ingest::run(bench).context("ingest")?;
    receive::run(bench).context("receive")?;
    latency::run(bench).context("latency")
}

/// Creates the load's topic and fills it.
fn produce(stage: &Stage, load: &Load) -> Result<()> {
    stage.topic(&load.topic)?;
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
