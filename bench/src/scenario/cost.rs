//! `cost`: the CPU time that an event costs at a given rate, and what it costs that there could be events.

mod spent;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use postgres::Client;

use self::spent::{PARTS, Spent};
use super::Bench;
use super::latency::{BESIDE, BESIDE_TABLE};
use crate::arrival::Watch;
use crate::contender::bare::Bare;
use crate::contender::debezium::Debezium;
use crate::contender::ours::Ours;
use crate::contender::polling::Polling;
use crate::contender::{Headers, Outbox};
use crate::figures::Rounds;
use crate::pace::{self, Pace, Times};
use crate::processes::{self, Work};
use crate::stage::{OURS, Stage, Wal};

/// Events per second, and the number of sessions that write them, one event a transaction.
const RATES: [(u64, usize); 4] = [(0, 1), (100, 1), (2_000, 8), (10_000, 8)];

const ROUNDS: usize = 3;
const SECONDS: u64 = 8;
/// Without events there is little to see, so it needs more time.
const IDLE_SECONDS: u64 = 20;
const WARM_UP_SECONDS: u64 = 2;

/// The bare producer: librdkafka alone beside sessions that commit rows. With the time for which it waits for more records.
const BARE: [(&str, Duration); 2] = [("bare", Duration::ZERO), ("bare_linger", Duration::from_millis(5))];

/// One run: how many events a second there really were, and what they cost.
struct Run {
    rate: f64,
    events: u64,
    seconds: f64,
    parts: [Duration; PARTS.len()],
    relay_memory_kb: Option<u64>,
}

/// Measures all contenders in turn, rate by rate.
pub fn run(bench: &mut Bench) -> Result<()> {
    bench.stage.restart(Wal::Logical)?;
    let stage = &bench.stage;
    stage.connect(OURS)?.batch_execute(BESIDE_TABLE)?;
    let mut outboxes: Vec<Box<dyn Outbox + '_>> = vec![
        Box::new(Ours::new(stage, Headers::Own)?),
        Box::new(Debezium::new(stage)?),
        Box::new(Polling::new(stage)?),
    ];
    let mut found = Rounds::default();
    for round in 0..=bench.rounds(ROUNDS) {
        for (rate, sessions) in RATES {
            let full = if rate == 0 { IDLE_SECONDS } else { SECONDS };
            let seconds = if round == 0 { 2 } else { bench.size(full, 2) };
            let turns = outboxes.len() + BARE.len();
            for turn in 0..turns {
                let at = if round % 2 == 0 { turn } else { turns - 1 - turn };
                let pace = Pace::new(rate, rate * seconds);
                let (name, run) = match outboxes.get_mut(at) {
                    Some(outbox) => (outbox.name(), through(stage, outbox.as_mut(), pace, sessions, seconds)),
                    None => {
                        let (name, linger) = BARE[at - outboxes.len()];
                        (name, bare(stage, linger, pace, sessions, seconds))
                    }
                };
                let run = run.with_context(|| format!("{name} at {rate}/s"))?;
                run.announce(round, rate, name);
                if round > 0 {
                    run.note(&mut found, &format!("cost.{rate}.{name}"));
                }
            }
        }
    }
    drop(outboxes);
    stage.connect(OURS)?.batch_execute("DROP TABLE beside")?;
    for (rate, _) in RATES {
        let key = |name: &str, part: &str| format!("cost.{rate}.{name}.{part}");
        let whole = if rate == 0 { "whole_ms_per_min" } else { "whole_us" };
        for peer in ["debezium", "polling"] {
            found.ratio(format!("cost.{rate}.ratio_{peer}"), &key("ours", whole), &key(peer, whole));
        }
        if rate > 0 {
            for (peer, _) in BARE {
                let ratio = format!("cost.{rate}.ratio_kafka_{peer}");
                found.ratio(ratio, &key("ours", "kafka_us"), &key(peer, "kafka_us"));
            }
        }
    }
    bench.figures.summarise_rounds(&found);
    Ok(())
}

/// Commits events at this pace. What they cost ends when all is done: records in Kafka, rows settled, changed pages on disk.
fn through(stage: &Stage, outbox: &mut dyn Outbox, pace: Pace, sessions: usize, seconds: u64) -> Result<Run> {
    const TOPIC: &str = "cost";
    let watch = stage.topic(TOPIC)?;
    outbox.open()?;
    let mut clients = clients(stage, outbox.database(), sessions)?;
    let statement = outbox.insert_one();
    clients[0].execute(statement, &[&TOPIC, &pace::FORERUNNER])?;
    watch.until(1, Instant::now(), |_| {}).context("the first event")?;
    let mut expected = 1;
    let relay = outbox.relay()?;
    let mut write = |pace: Pace, outbox: &mut dyn Outbox| {
        let begin = Instant::now();
        pace::write(&mut clients, statement, TOPIC, pace, &Times::new(begin, pace.count))?;
        let wrote = begin.elapsed();
        expected += pace.count;
        watch.until(expected, begin, |_| {})?;
        outbox.rest()?;
        Ok::<_, anyhow::Error>(wrote)
    };
    let warm_up = warm_up(pace);
    write(warm_up, outbox)?;
    stage.checkpoint()?;
    let (before, begin) = (Spent::until_now(stage, &relay)?, Instant::now());
    let wrote = if pace.rate == 0 { idle(begin, seconds) } else { write(pace.behind(warm_up), outbox)? };
    if pace.rate > 0 {
        stage.checkpoint()?;
    }
    let parts = Spent::until_now(stage, &relay)?.since(&before);
    let relay_memory_kb = relay.memory_kb()?;
    drop(clients);
    outbox.close().with_context(|| outbox.trouble())?;
    ensure_records(&watch, expected)?;
    stage.remove_topic(TOPIC)?;
    Ok(Run::new(pace, wrote, parts, relay_memory_kb))
}

/// The limit: as many rows are committed at this pace, and as many records produced from memory.
fn bare(stage: &Stage, linger: Duration, pace: Pace, sessions: usize, seconds: u64) -> Result<Run> {
    const TOPIC: &str = "cost";
    let watch = stage.topic(TOPIC)?;
    let mut clients = clients(stage, OURS, sessions)?;
    let others = processes::threads_of_librdkafka()?;
    let warm_up = warm_up(pace);
    let acknowledged = Arc::new(Times::new(Instant::now(), pace.count));
    let producer = Bare::new(&stage.bootstrap_servers(), linger, acknowledged)?;
    let mut produce = |pace: Pace| {
        let begin = Instant::now();
        let (sent, committed) = (Times::new(begin, pace.count), Times::new(begin, pace.count));
        scope(|threads| {
            let producing = threads.spawn(|| {
                producer.produce(TOPIC, pace, begin, &sent)?;
                processes::cpu_of_this_thread()
            });
            pace::write(&mut clients, BESIDE, TOPIC, pace, &committed)?;
            let used = producing.join().map_err(|_| anyhow!("the producer panicked"))??;
            Ok::<_, anyhow::Error>((begin.elapsed(), used))
        })
    };
    produce(warm_up)?;
    let relay = Work::Threads(&processes::threads_of_librdkafka()? - &others);
    stage.checkpoint()?;
    let (before, begin) = (Spent::until_now(stage, &relay)?, Instant::now());
    let (wrote, used) = if pace.rate == 0 { (idle(begin, seconds), Duration::ZERO) } else { produce(pace)? };
    if pace.rate > 0 {
        stage.checkpoint()?;
    }
    let mut after = Spent::until_now(stage, &relay)?;
    after.add_to_relay(used);
    drop(clients);
    drop(producer);
    ensure_records(&watch, warm_up.count + pace.count)?;
    stage.remove_topic(TOPIC)?;
    stage.connect(OURS)?.batch_execute("TRUNCATE beside")?;
    Ok(Run::new(pace, wrote, after.since(&before), None))
}

/// Connections are opened, plans cached and topics known before anything is measured.
fn warm_up(pace: Pace) -> Pace {
    let rate = pace.rate.max(100);
    Pace::new(rate, rate * WARM_UP_SECONDS)
}

fn clients(stage: &Stage, database: &str, sessions: usize) -> Result<Vec<Client>> {
    (0..sessions).map(|_| stage.connect(database)).collect()
}

fn idle(begin: Instant, seconds: u64) -> Duration {
    sleep(Duration::from_secs(seconds));
    begin.elapsed()
}

fn ensure_records(watch: &Watch, expected: u64) -> Result<()> {
    let records = watch.records()?;
    ensure!(records == expected, "{records} records of {expected} events");
    Ok(())
}

impl Run {
    fn new(pace: Pace, took: Duration, parts: [Duration; PARTS.len()], relay_memory_kb: Option<u64>) -> Self {
        let seconds = took.as_secs_f64();
        Self { rate: pace.count as f64 / seconds, events: pace.count, seconds, parts, relay_memory_kb }
    }

    /// The parts and the whole: what server and relay cost together. Microseconds an event, or milliseconds a minute.
    fn figures(&self) -> BTreeMap<String, f64> {
        let (unit, scale) = match self.events {
            0 => ("ms_per_min", 1e3 * 60.0 / self.seconds),
            events => ("us", 1e6 / events as f64),
        };
        let figure = |time: Duration| time.as_secs_f64() * scale;
        let mut figures: BTreeMap<_, _> = PARTS
            .iter()
            .zip(self.parts)
            .map(|(name, time)| (format!("{name}_{unit}"), figure(time)))
            .collect();
        let whole = figures[&format!("server_{unit}")] + figures[&format!("relay_{unit}")];
        figures.insert(format!("whole_{unit}"), whole);
        figures
    }

    fn note(&self, found: &mut Rounds, key: &str) {
        for (name, figure) in self.figures() {
            found.add(format!("{key}.{name}"), figure);
        }
        if self.events > 0 {
            found.add(format!("{key}.rate"), self.rate);
        }
        if let Some(kilobytes) = self.relay_memory_kb {
            found.add(format!("{key}.relay_mb"), kilobytes as f64 * 1024.0 / 1e6);
        }
    }

    fn announce(&self, round: usize, rate: u64, name: &str) {
        let parts: String =
            self.figures().iter().map(|(name, figure)| format!("  {name} {figure:>7.1}")).collect();
        let round = super::round(round);
        eprintln!("    {round:<8} {rate:>6}/s {name:<12} {:>7.0}/s {parts}", self.rate);
    }
}
