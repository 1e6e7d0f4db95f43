//! The rate at which a table follows a topic that has each key many times, from the call that begins it until the last record is
//! applied. What a first look at the table sees would not tell the start from the work: transactions may be large.

use std::time::{Instant, SystemTime};

use anyhow::{Context, Result};
use event_outbox_lab::progress::{grouped, passed, passing};

use super::super::Bench;
use crate::arrival;
use crate::contender::producer::{Outgoing, Producer};
use crate::events::{self, Load};
use crate::figures::Rounds;
use crate::reader::Reader;
use crate::reader::reducing::Reducing;
use crate::reader::upsert::{self, JdbcUpsert, Projection};
use crate::stage::{PARTITIONS, Stage, Wal};

const ROUNDS: usize = 3;
/// The number of records, of a full run and a quick one: ten for each key.
const RECORDS: (u64, u64) = (1_000_000, 50_000);
const TOPIC: &str = "inbox-projection";

/// Measures both in turn, in alternating order. The first round is a warm-up.
pub fn run(bench: &mut Bench) -> Result<()> {
    let rounds = bench.rounds(ROUNDS);
    let count = bench.inbox_events.unwrap_or_else(|| bench.size(RECORDS.0, RECORDS.1));
    bench.stage.restart(Wal::Replica)?;
    let stage = &bench.stage;
    let load = Load::new(TOPIC, count);
    produce(stage, &load).context("filling the topic")?;
    let mut readers: Vec<Box<dyn Reader + '_>> =
        vec![Box::new(Projection::new(stage)?), Box::new(Reducing::new(stage)?)];
    let mut has_peer = false;
    match JdbcUpsert::new(stage)? {
        Some(sink) => {
            readers.push(Box::new(sink));
            has_peer = true;
        }
        None => eprintln!("    without Debezium's JDBC sink: Maven did not fetch it"),
    }
    let mut measured = Rounds::default();
    for round in 0..=rounds {
        for reader in &mut readers {
            let name = reader.name();
            stage.checkpoint()?;
            let begin = Instant::now();
            reader.open(TOPIC).context(name)?;
            let show = |applied: u64| {
                passing(&format!("{} of {}", grouped(applied as usize), grouped(count as usize)));
            };
            let applied = arrival::until("records were applied", count, begin, || reader.stored(), show);
            passed();
            let applied = applied.with_context(|| reader.trouble())?;
            reader.close(&load).context(name)?;
            let (of, wall) = (crate::scenario::round(round), applied.wall().as_secs_f64());
            eprintln!(
                "    {of:<8} {name:<20} {:>10} events/s   (all after {wall:.2} s)",
                grouped((count as f64 / wall) as usize)
            );
            if round > 0 {
                measured.add(format!("inbox.projection.{name}"), count as f64 / wall);
            }
        }
        readers.reverse();
    }
    measured.ratio("inbox.projection.ratio_rust_bare", "inbox.projection.ours", "inbox.projection.rust_bare");
    if has_peer {
        let [ours, peer] = ["ours", "jdbc_sink"].map(|name| format!("inbox.projection.{name}"));
        measured.ratio("inbox.projection.ratio_jdbc_sink", &ours, &peer);
    }
    drop(readers);
    stage.remove_topic(TOPIC)?;
    bench.figures.set("inbox.projection.records", count as f64);
    bench.figures.summarise_rounds(&measured);
    Ok(())
}

fn produce(stage: &Stage, load: &Load) -> Result<()> {
    stage.broker().create_topic(&load.topic, PARTITIONS, &[])?;
    let mut producer = Producer::new(&stage.bootstrap_servers())?;
    producer.connect(&load.topic)?;
    let now_ms = i64::try_from(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_millis())?;
    let keys = upsert::keys(load);
    for n in load.numbers.clone() {
        let (key, payload) = (upsert::key(n, keys), events::payload(n, load.bytes));
        let record = Outgoing {
            topic: &load.topic,
            key: key.as_bytes(),
            payload: payload.as_bytes(),
            timestamp_ms: now_ms,
        };
        producer.send(&record, std::iter::empty())?;
    }
    producer.flush()
}
