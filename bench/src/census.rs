//! Reads every record after the measurement, and counts what really arrived.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::{Offset, TopicPartitionList};

use crate::events::{self, Load};

const POLL: Duration = Duration::from_millis(100);
const STANDSTILL: Duration = Duration::from_secs(30);

/// The records of a load in a topic.
#[derive(Debug, Default)]
pub struct Census {
    /// The number of records.
    pub records: u64,
    /// The number of distinct events of the load.
    pub distinct: u64,
    /// Records that are not events of the load, or whose key, size or headers differ from the event's.
    pub wrong: u64,
}

impl Census {
    /// Reads all records of the topic, `records` in number.
    pub fn take(bootstrap_servers: &str, load: &Load, partitions: i32, records: u64) -> Result<Self> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap_servers)
            .set("group.id", "event_outbox_bench")
            .set("enable.auto.commit", "false")
            .set("check.crcs", "true")
            .set("log_level", "0")
            .create()?;
        let mut all = TopicPartitionList::new();
        for partition in 0..partitions {
            all.add_partition_offset(&load.topic, partition, Offset::Beginning)?;
        }
        consumer.assign(&all)?;

        let mut census = Self::default();
        let mut seen = vec![false; usize::try_from(load.count())?];
        let mut moved = Instant::now();
        while census.records < records {
            match consumer.poll(POLL) {
                Some(Ok(message)) => {
                    census.note(&message, load, &mut seen);
                    moved = Instant::now();
                }
                Some(Err(error)) => bail!("reading {}: {error}", load.topic),
                None if moved.elapsed() > STANDSTILL => {
                    bail!("only {} of {records} records could be read", census.records)
                }
                None => {}
            }
        }
        Ok(census)
    }

    fn note(&mut self, message: &impl Message, load: &Load, seen: &mut [bool]) {
        self.records += 1;
        let number = message.payload().and_then(events::number).filter(|n| load.numbers.contains(n));
        let Some(n) = number.filter(|n| is_right(message, *n, load.bytes)) else {
            self.wrong += 1;
            return;
        };
        let place = usize::try_from(n - load.numbers.start()).ok().and_then(|at| seen.get_mut(at));
        if place.is_some_and(|place| !std::mem::replace(place, true)) {
            self.distinct += 1;
        }
    }

    /// Fails unless every event of the load arrived exactly once and unchanged.
    pub fn ensure_exact(&self, load: &Load) -> Result<()> {
        let expected = load.count();
        let Census { records, distinct, wrong } = *self;
        ensure!(
            records == expected && distinct == expected && wrong == 0,
            "{}: of {expected} events {distinct} arrived, in {records} records, {wrong} of them wrong",
            load.topic
        );
        Ok(())
    }
}

/// Whether the key, the size and the headers `id` and `trace` are those of the event.
fn is_right(message: &impl Message, n: i64, bytes: usize) -> bool {
    let header = |name: &str, value: &str| {
        let mut headers = message.headers().into_iter().flat_map(Headers::iter);
        headers.any(|header| header.key == name && header.value == Some(value.as_bytes()))
    };
    message.payload().is_some_and(|payload| payload.len() == bytes)
        && message.key() == Some(events::key(n).as_bytes())
        && header("id", &events::id(n))
        && header("trace", &events::trace(n))
}
