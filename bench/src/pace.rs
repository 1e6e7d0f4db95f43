//! Writes events at a steady rate, and notes when each was sent and when it was visible.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use postgres::Client;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::events;
use crate::stage::PARTITIONS;

const POLL: Duration = Duration::from_millis(100);
const STANDSTILL: Duration = Duration::from_secs(60);

/// The number of the event that does not count.
pub const FORERUNNER: i64 = 0;

/// Times of numbered events, in nanoseconds since a common beginning. Zero means never.
pub struct Times {
    begin: Instant,
    at: Vec<AtomicU64>,
}

impl Times {
    /// The times of the events 1 to `count`.
    pub fn new(begin: Instant, count: u64) -> Self {
        Self { begin, at: (0..=count).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Notes the present time of an event. Only the first call for each event counts.
    pub fn now(&self, n: i64) {
        let Some(at) = usize::try_from(n).ok().and_then(|n| self.at.get(n)) else { return };
        let now = u64::try_from(self.begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let _ = at.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Events per second, from the first time to the last.
    pub fn rate(&self) -> f64 {
        let noted = || self.at.iter().map(|at| at.load(Ordering::Relaxed)).filter(|at| *at > 0);
        let nanos = noted().max().unwrap_or(0).saturating_sub(noted().min().unwrap_or(0));
        noted().count() as f64 * 1e9 / nanos.max(1) as f64
    }

    /// The milliseconds from the times of `earlier` to these, for all events after the first `skipped`. The writer may
    /// note its time after the record is visible: that counts as 0.
    pub fn since(&self, earlier: &Times, skipped: u64) -> Vec<f64> {
        let pairs = self.at.iter().zip(&earlier.at).skip(1 + skipped as usize);
        let millis = pairs.map(|(later, earlier)| {
            let gap = later.load(Ordering::Relaxed).saturating_sub(earlier.load(Ordering::Relaxed));
            gap as f64 / 1e6
        });
        millis.collect()
    }
}

/// A rate that follows the clock: a late writer does not wait until it has caught up.
#[derive(Clone, Copy)]
pub struct Pace {
    /// Events per second.
    pub rate: u64,
    /// The total number of events.
    pub count: u64,
    /// How many events were written before: numbers go on behind these.
    before: i64,
}

impl Pace {
    /// This many events per second, and in total, from the number 1 on.
    pub fn new(rate: u64, count: u64) -> Self {
        Self { rate, count, before: 0 }
    }

    /// The same behind other events.
    pub fn behind(self, other: Self) -> Self {
        Self { before: other.before + other.count.cast_signed(), ..self }
    }

    /// When the nth event is due, after the beginning.
    pub fn due(&self, n: i64) -> Duration {
        Duration::from_secs_f64(n as f64 / self.rate as f64)
    }
}

/// Commits one event per transaction, from several sessions in turn. Notes in `committed` when the nth COMMIT returned.
pub fn write(
    clients: &mut [Client],
    statement: &str,
    topic: &str,
    pace: Pace,
    committed: &Times,
) -> Result<()> {
    let writers = clients.len() as i64;
    let failed = Mutex::new(None);
    scope(|threads| {
        for (first, client) in (1..).zip(clients) {
            let failed = &failed;
            threads.spawn(move || {
                let numbers = (first..=pace.count.cast_signed()).step_by(writers as usize);
                if let Err(error) = write_some(client, statement, topic, pace, numbers, committed)
                    && let Ok(mut failed) = failed.lock()
                {
                    *failed = Some(error);
                }
            });
        }
    });
    match failed.into_inner() {
        Ok(None) => Ok(()),
        Ok(Some(error)) => Err(error.context("a writer")),
        Err(_) => Err(anyhow!("a writer panicked")),
    }
}

fn write_some(
    client: &mut Client,
    statement: &str,
    topic: &str,
    pace: Pace,
    numbers: impl Iterator<Item = i64>,
    committed: &Times,
) -> Result<()> {
    let statement = client.prepare(statement)?;
    for n in numbers {
        sleep_until(committed.begin, pace.due(n));
        client.execute(&statement, &[&topic, &(pace.before + n)])?;
        committed.now(n);
    }
    Ok(())
}

/// Sleeps until `due` after `begin`.
pub fn sleep_until(begin: Instant, due: Duration) {
    if let Some(left) = due.checked_sub(begin.elapsed()) {
        sleep(left);
    }
}

/// A consumer at the beginning of a topic.
pub fn reader(bootstrap_servers: &str, topic: &str) -> Result<BaseConsumer> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap_servers)
        .set("group.id", "event_outbox_bench")
        .set("enable.auto.commit", "false")
        // The broker must answer as soon as there is a record.
        .set("fetch.min.bytes", "1")
        .set("log_level", "0")
        .create()?;
    let mut all = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        all.add_partition_offset(topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&all)?;
    Ok(consumer)
}

/// Reads until `count` distinct events have arrived, and notes when each did.
pub fn read(consumer: &BaseConsumer, count: u64, visible: &Times) -> Result<()> {
    let mut seen = vec![false; usize::try_from(count)? + 1];
    let mut left = count;
    let mut moved = Instant::now();
    while left > 0 {
        match consumer.poll(POLL) {
            Some(Ok(message)) => {
                let n = message
                    .payload()
                    .and_then(events::number)
                    .context("found a record that is not an event")?;
                if n == FORERUNNER {
                    continue;
                }
                visible.now(n);
                let new = usize::try_from(n).ok().and_then(|n| seen.get_mut(n));
                if new.is_some_and(|seen| !std::mem::replace(seen, true)) {
                    left -= 1;
                    moved = Instant::now();
                }
            }
            Some(Err(error)) => bail!("reading: {error}"),
            None if moved.elapsed() > STANDSTILL => bail!("{left} of {count} events did not arrive"),
            None => {}
        }
    }
    Ok(())
}
