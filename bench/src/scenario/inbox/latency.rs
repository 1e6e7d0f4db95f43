//! The time from producing a record to the commit of the transaction that handles it: a row in a table.

use std::sync::Arc;
use std::thread::scope;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use postgres::Client;
use rdkafka::consumer::BaseConsumer;
use rdkafka::message::Message;

use super::super::{Bench, latency};
use crate::contender::bare::Bare;
use crate::events;
use crate::figures::{Rounds, Samples};
use crate::pace::{Pace, Times};
use crate::reader::Reader;
use crate::reader::copying;
use crate::reader::ours::Inbox;
use crate::stage::{OURS, Stage, Wal};

const ROUNDS: usize = 3;
const RATE: u64 = 100;
const SECONDS: (u64, u64) = (8, 3);
/// The beginning of each run does not count: connections are opened and plans cached.
const WARM_UP_SECONDS: u64 = 2;
const POLL: Duration = Duration::from_millis(100);
const STANDSTILL: Duration = Duration::from_secs(30);

const TABLE: &str =
    "CREATE TABLE IF NOT EXISTS handled (n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, payload bytea)";
const INSERT: &str = "INSERT INTO handled (payload) VALUES ($1)";
const AWAIT: &str = "CALL inbox.await('bench', '1 second')";
const RECEIVE: &str = "
INSERT INTO handled (payload) SELECT payload FROM inbox.receive('bench', 100) RETURNING payload";

/// A way to handle events.
#[derive(Clone, Copy)]
enum Way {
    Ours,
    Bare,
}

/// Measures both in turn. The first round is a warm-up.
pub fn run(bench: &mut Bench) -> Result<()> {
    let rounds = bench.rounds(ROUNDS);
    let seconds = bench.size(SECONDS.0, SECONDS.1);
    bench.stage.restart(Wal::Replica)?;
    let stage = &bench.stage;
    let mut inbox = Inbox::new(stage)?;
    stage.connect(OURS)?.batch_execute(TABLE)?;
    let mut percentiles = Rounds::default();
    let mut ways = [("ours", Way::Ours), ("bare", Way::Bare)];
    for round in 0..=rounds {
        let pace = Pace::new(RATE, RATE * (WARM_UP_SECONDS + if round == 0 { 1 } else { seconds }));
        for (name, way) in ways {
            let topic = format!("inbox-latency-{name}-{round}");
            stage.topic(&topic)?;
            let times = match way {
                Way::Ours => through_inbox(stage, &mut inbox, &topic, pace),
                Way::Bare => measure(stage, &topic, pace, |handled| {
                    let consumer = copying::consumer(&stage.bootstrap_servers(), &topic)?;
                    insert(&consumer, stage.connect(OURS)?, pace.count, handled)
                }),
            };
            let samples = times.context(name)?.into_iter().collect::<Samples>();
            stage.remove_topic(&topic)?;
            latency::announce(round, RATE, name, &samples);
            if round > 0 {
                latency::note(&mut percentiles, &format!("inbox.latency.{name}."), &samples);
            }
        }
        ways.reverse();
    }
    for percentile in ["p50", "p99"] {
        let [ours, bare] = ["ours", "bare"].map(|name| format!("inbox.latency.{name}.{percentile}_ms"));
        percentiles.ratio(format!("inbox.latency.{percentile}_ratio_bare"), &ours, &bare);
    }
    bench.figures.summarise_rounds(&percentiles);
    Ok(())
}

fn through_inbox(stage: &Stage, inbox: &mut Inbox, topic: &str, pace: Pace) -> Result<Vec<f64>> {
    inbox.open(topic)?;
    inbox.until_idle()?;
    let times = measure(stage, topic, pace, |handled| receive(stage.connect(OURS)?, pace.count, handled))?;
    inbox.end()?;
    Ok(times)
}

/// Produces at this pace while `handle` works. Returns the milliseconds from producing each record to its commit.
fn measure(
    stage: &Stage,
    topic: &str,
    pace: Pace,
    handle: impl FnOnce(&Times) -> Result<()> + Send,
) -> Result<Vec<f64>> {
    let begin = Instant::now();
    let times = || Times::new(begin, pace.count);
    let (sent, handled, acknowledged) = (times(), times(), Arc::new(times()));
    scope(|threads| {
        let handler = threads.spawn(|| handle(&handled));
        Bare::new(&stage.bootstrap_servers(), Duration::ZERO, acknowledged)?
            .produce(topic, pace, begin, &sent)?;
        handler.join().map_err(|_| anyhow!("the handler panicked"))?
    })?;
    Ok(handled.since(&sent, pace.rate * WARM_UP_SECONDS))
}

/// Waits for events of the inbox, and handles them, until there were `count`.
fn receive(mut client: Client, count: u64, handled: &Times) -> Result<()> {
    let receive = client.prepare(RECEIVE)?;
    let (mut left, mut moved) = (count, Instant::now());
    while left > 0 {
        client.batch_execute(AWAIT)?;
        for row in client.query(&receive, &[])? {
            handled.now(events::number(row.get(0)).context("found what is not an event")?);
            left = left.saturating_sub(1);
            moved = Instant::now();
        }
        ensure!(moved.elapsed() < STANDSTILL, "{left} of {count} events were not received");
    }
    Ok(())
}

/// Inserts each record that a consumer reads, until there were `count`.
fn insert(consumer: &BaseConsumer, mut client: Client, count: u64, handled: &Times) -> Result<()> {
    let insert = client.prepare(INSERT)?;
    let (mut left, mut moved) = (count, Instant::now());
    while left > 0 {
        if let Some(record) = consumer.poll(POLL) {
            let record = record?;
            let payload = record.payload().context("found a record without a value")?;
            client.execute(&insert, &[&payload])?;
            handled.now(events::number(payload).context("found what is not an event")?);
            left -= 1;
            moved = Instant::now();
        }
        ensure!(moved.elapsed() < STANDSTILL, "{left} of {count} records did not arrive");
    }
    Ok(())
}
