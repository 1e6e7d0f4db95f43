//! Observes when records arrive, by repeatedly asking for a count, as for the end offsets of a topic's partitions. Each time
//! takes one small request, so the observation costs the contenders next to nothing.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};

const ASK_EVERY: Duration = Duration::from_millis(20);
const ASK_DEADLINE: Duration = Duration::from_secs(10);
/// No contender takes this long to start, or pauses this long.
const STANDSTILL: Duration = Duration::from_secs(90);

/// The observation of one topic.
pub struct Watch {
    consumer: BaseConsumer,
    topic: String,
    partitions: i32,
}

/// How many records a topic had at some time.
#[derive(Clone, Copy, Debug)]
pub struct Sighting {
    /// The time since the beginning.
    pub at: Duration,
    /// The number of records in all partitions.
    pub records: u64,
}

/// The sightings from the first record to the last.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// In the order of time. The first one saw a record, the last one saw all.
    pub sightings: Vec<Sighting>,
}

impl Watch {
    /// A watch of an existing topic.
    pub fn new(bootstrap_servers: &str, topic: &str, partitions: i32) -> Result<Self> {
        let consumer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap_servers)
            .set("group.id", "event_outbox_bench")
            .set("log_level", "0")
            .create()?;
        Ok(Self { consumer, topic: topic.into(), partitions })
    }

    /// The present number of records in the topic.
    pub fn records(&self) -> Result<u64> {
        let mut ask = TopicPartitionList::new();
        for partition in 0..self.partitions {
            ask.add_partition_offset(&self.topic, partition, Offset::End)?;
        }
        let ends = self.consumer.offsets_for_times(ask, ASK_DEADLINE)?;
        let mut records = 0;
        for end in ends.elements() {
            match end.offset() {
                Offset::Offset(offset) => records += u64::try_from(offset).context("a negative offset")?,
                other => bail!("the end of {} is {other:?}", self.topic),
            }
        }
        Ok(records)
    }

    /// Watches until `count` records have arrived. `begin` is when publishing began. Calls `on_arrival` with each new count.
    pub fn until(&self, count: u64, begin: Instant, on_arrival: impl FnMut(u64)) -> Result<Arrival> {
        until(&format!("records arrived in {}", self.topic), count, begin, || self.records(), on_arrival)
    }
}

/// Watches until a count that only grows is at least `count`. `begin` is when the work began. Calls `on_arrival` with each
/// new count. `what` is for the error: what was counted.
pub fn until(
    what: &str,
    count: u64,
    begin: Instant,
    mut present: impl FnMut() -> Result<u64>,
    mut on_arrival: impl FnMut(u64),
) -> Result<Arrival> {
    let mut sightings: Vec<Sighting> = Vec::new();
    let mut moved = Instant::now();
    loop {
        let records = present()?;
        let last = sightings.last().map_or(0, |sighting| sighting.records);
        if records > last {
            moved = Instant::now();
            sightings.push(Sighting { at: begin.elapsed(), records });
            on_arrival(records);
        }
        if records >= count {
            return Ok(Arrival { sightings });
        }
        if moved.elapsed() > STANDSTILL {
            bail!("only {records} of {count} {what}, and no further one in {STANDSTILL:?}");
        }
        sleep(ASK_EVERY);
    }
}

impl Arrival {
    /// Records per second, from the first sighting to the last.
    pub fn rate(&self) -> f64 {
        match (self.sightings.first(), self.sightings.last()) {
            (Some(first), Some(last)) if last.at > first.at => {
                (last.records - first.records) as f64 / (last.at - first.at).as_secs_f64()
            }
            // One sighting saw all records: assume that they arrived within one interval.
            (Some(_), Some(last)) => last.records as f64 / ASK_EVERY.as_secs_f64(),
            _ => 0.0,
        }
    }

    /// The time from the beginning to the last record, including the start.
    pub fn wall(&self) -> Duration {
        self.sightings.last().map_or(Duration::ZERO, |last| last.at)
    }

    /// The time from the beginning to the first record.
    pub fn start(&self) -> Duration {
        self.sightings.first().map_or(Duration::ZERO, |first| first.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_leaves_out_the_start() {
        let sighting = |millis, records| Sighting { at: Duration::from_millis(millis), records };
        let arrival =
            Arrival { sightings: vec![sighting(5000, 100), sighting(5500, 600), sighting(6000, 1100)] };
        assert_eq!((arrival.rate(), arrival.wall().as_secs(), arrival.start().as_secs()), (1000.0, 6, 5));
    }
}
