//! `delivery`: the modes of delivery side by side, and Debezium with Kafka Connect's exactly-once support.

use std::time::Instant;

use anyhow::{Context, Result};

use super::Bench;
use super::latency::{self, through};
use crate::contender::debezium::Debezium;
use crate::contender::ours::Ours;
use crate::contender::{Headers, Outbox};
use crate::events::Load;
use crate::figures::Rounds;
use crate::pace::{self, Pace, Times};
use crate::stage::{Stage, Wal};

const ROUNDS: usize = 3;

/// The modes that the relay can publish in.
const MODES: [&str; 3] = ["at_least_once", "at_most_once", "exactly_once"];

/// The events of a drain, of a full run and a quick one; Debezium gets fewer, since the result is a rate.
const MANY: (u64, u64) = (500_000, 20_000);
const FEWER: (u64, u64) = (200_000, 5_000);

/// Events per second, the seconds, and those at the beginning that do not count.
const RATE: u64 = 100;
const SECONDS: u64 = 8;
const WARM_UP_SECONDS: u64 = 2;

/// Measures all modes in turn, round by round, in alternating order. A consumer that reads only what is committed says when
/// an event has arrived.
pub fn run(bench: &mut Bench) -> Result<()> {
    bench.stage.restart(Wal::Logical)?;
    let rounds = bench.rounds(ROUNDS);
    let (many, fewer) = (bench.size(MANY.0, MANY.1), bench.size(FEWER.0, FEWER.1));
    let seconds = bench.size(SECONDS, 2);
    let stage = &bench.stage;
    let mut ours = Ours::new(stage, Headers::Own)?;
    let mut debezium = Debezium::exactly_once(stage)?;
    let mut found = Rounds::default();
    for round in 0..=rounds {
        let mut turns: Vec<Option<&str>> = MODES.into_iter().map(Some).chain([None]).collect();
        if round % 2 == 1 {
            turns.reverse();
        }
        for turn in turns {
            let name = turn.unwrap_or("debezium_exactly_once");
            let count = if turn.is_some() { many } else { fewer };
            let outbox: &mut dyn Outbox = match turn {
                Some(mode) => {
                    stage.server().set("event_outbox.delivery", mode)?;
                    &mut ours
                }
                None => &mut debezium,
            };
            let rate = drain(stage, outbox, &format!("delivery-{name}-{round}"), count)
                .with_context(|| format!("{name}\n{}", outbox.trouble()))?;
            let topic = format!("delivery-latency-{name}-{round}");
            let watch = stage.topic(&topic)?;
            let pace = Pace::new(RATE, RATE * (WARM_UP_SECONDS + seconds));
            let run = through(stage, outbox, &watch, &topic, pace, 1)
                .with_context(|| format!("{name}\n{}", outbox.trouble()))?;
            stage.remove_topic(&topic)?;
            let visible = run.visible.into_iter().collect();
            latency::announce(round, RATE, name, &visible);
            eprintln!("    {:<8} {name:<22} {rate:>10.0} events/s", super::round(round));
            if round > 0 {
                found.add(format!("delivery.drain.{name}"), rate);
                latency::note(&mut found, &format!("delivery.latency.{name}."), &visible);
            }
        }
    }
    drop((ours, debezium));
    stage.server().set("event_outbox.delivery", MODES[0])?;
    let least = "delivery.drain.at_least_once";
    found.ratio("delivery.drain.ratio_at_most_once", "delivery.drain.at_most_once", least);
    found.ratio("delivery.drain.ratio_exactly_once", "delivery.drain.exactly_once", least);
    found.ratio(
        "delivery.drain.ratio_debezium",
        "delivery.drain.exactly_once",
        "delivery.drain.debezium_exactly_once",
    );
    let p50 = |mode: &str| format!("delivery.latency.{mode}.p50_ms");
    for mode in &MODES[1..] {
        found.ratio(format!("delivery.latency.ratio_{mode}"), &p50(mode), &p50(MODES[0]));
    }
    bench.figures.summarise_rounds(&found);
    Ok(())
}

/// Publishes a backlog, and returns the rate at which a consumer gets it.
fn drain(stage: &Stage, outbox: &mut dyn Outbox, topic: &str, count: u64) -> Result<f64> {
    let load = Load::new(topic, count);
    stage.topic(topic)?;
    outbox.fill(&load).context("fill")?;
    stage.checkpoint()?;
    let consumer = pace::reader(&stage.bootstrap_servers(), topic)?;
    let visible = Times::new(Instant::now(), count);
    outbox.open()?;
    pace::read(&consumer, count, &visible)?;
    outbox.close().context("close")?;
    stage.remove_topic(topic)?;
    Ok(visible.rate())
}
