//! The rate at which a topic is stored in the database.

use std::time::Instant;

use anyhow::{Context, Result};
use event_outbox_lab::progress::{grouped, passed, passing};

use super::super::Bench;
use crate::arrival::{self, Arrival};
use crate::events::Load;
use crate::figures::Rounds;
use crate::reader::Reader;
use crate::reader::copying::Copying;
use crate::reader::jdbc_sink::JdbcSink;
use crate::reader::ours::Inbox;
use crate::reader::python::Python;
use crate::scenario::drain;
use crate::stage::{Stage, Wal};

const ROUNDS: usize = 3;
/// The number of events, of a full run and a quick one.
const EVENTS: (u64, u64) = (500_000, 50_000);
const TOPIC: &str = "inbox-ingest";

/// Measures all contenders in turn, in alternating order. The first round is a warm-up.
pub fn run(bench: &mut Bench) -> Result<()> {
    let rounds = bench.rounds(ROUNDS);
    let count = bench.inbox_events.unwrap_or_else(|| bench.size(EVENTS.0, EVENTS.1));
    bench.stage.restart(Wal::Replica)?;
    let stage = &bench.stage;
    let load = Load::new(TOPIC, count);
    super::produce(stage, &load).context("filling the topic")?;
    let mut readers: Vec<Box<dyn Reader + '_>> =
        vec![Box::new(Inbox::new(stage)?), Box::new(Copying::new(stage)?)];
    match Python::new(stage)? {
        Some(python) => readers.push(Box::new(python)),
        None => eprintln!("    without Python: its packages are not installed"),
    }
    match JdbcSink::new(stage)? {
        Some(sink) => readers.push(Box::new(sink)),
        None => eprintln!("    without Debezium's JDBC sink: Maven did not fetch it"),
    }
    let mut measured = Rounds::default();
    for round in 0..=rounds {
        for reader in &mut readers {
            let name = reader.name();
            let stored = store(stage, reader.as_mut(), &load).context(name)?;
            drain::announce(round, name, &stored);
            if round > 0 {
                let with_start = count as f64 / stored.wall().as_secs_f64();
                measured.add(format!("inbox.ingest.{name}"), stored.rate());
                measured.add(format!("inbox.ingest.{name}.with_start"), with_start);
            }
        }
        readers.reverse();
    }
    let names: Vec<_> = readers.iter().map(|reader| reader.name()).filter(|name| *name != "ours").collect();
    for peer in names {
        let key = format!("inbox.ingest.{peer}");
        measured.ratio(format!("inbox.ingest.ratio_{peer}"), "inbox.ingest.ours", &key);
    }
    drop(readers);
    stage.remove_topic(TOPIC)?;
    bench.figures.set("inbox.ingest.events", count as f64);
    bench.figures.summarise_rounds(&measured);
    Ok(())
}

fn store(stage: &Stage, reader: &mut dyn Reader, load: &Load) -> Result<Arrival> {
    stage.checkpoint()?;
    let (begin, count) = (Instant::now(), load.count());
    reader.open(&load.topic)?;
    let arrival = arrival::until(
        "events were stored",
        count,
        begin,
        || reader.stored(),
        |stored| {
            passing(&format!("{} of {}", grouped(stored as usize), grouped(count as usize)));
        },
    );
    passed();
    let arrival = arrival.with_context(|| reader.trouble())?;
    reader.close(load).context("close")?;
    Ok(arrival)
}
