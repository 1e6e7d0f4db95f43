//! `delivery`: the modes of delivery side by side, and Debezium with Kafka Connect's exactly-once support.

use std::time::Instant;

use anyhow::{Context, Result};

use super::Bench;
use super::latency::{self, Run, through};
use crate::contender::bare::Bare;
use crate::contender::debezium::Debezium;
use crate::contender::ours::Ours;
use crate::contender::{Headers, Outbox};
use crate::events::Load;
use crate::figures::Rounds;
use crate::pace::{self, Pace, Times};
use crate::stage::{OURS, Stage, Wal};

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

/// What is measured in a turn.
#[derive(Clone, Copy)]
enum Turn {
    /// The extension, in this mode.
    Ours(&'static str),
    /// Debezium.
    Debezium,
    /// librdkafka alone, with a transaction for each record: no transactions can be faster. It has no backlog.
    Bare,
}

impl Turn {
    fn name(self) -> &'static str {
        match self {
            Self::Ours(mode) => mode,
            Self::Debezium => "debezium_exactly_once",
            Self::Bare => "bare_transactions",
        }
    }
}

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
    stage.connect(OURS)?.batch_execute(latency::BESIDE_TABLE)?;
    for round in 0..=rounds {
        let mut turns: Vec<Turn> =
            MODES.into_iter().map(Turn::Ours).chain([Turn::Debezium, Turn::Bare]).collect();
        if round % 2 == 1 {
            turns.reverse();
        }
        for turn in turns {
            let name = turn.name();
            let topic = format!("delivery-latency-{name}-{round}");
            let pace = Pace::new(RATE, RATE * (WARM_UP_SECONDS + seconds));
            let (rate, run) = match turn {
                Turn::Ours(mode) => {
                    stage.server().set("event_outbox.delivery", mode)?;
                    (
                        Some(drain(stage, &mut ours, name, round, many)?),
                        steady(stage, &mut ours, &topic, pace)?,
                    )
                }
                Turn::Debezium => {
                    let rate = drain(stage, &mut debezium, name, round, fewer)?;
                    (Some(rate), steady(stage, &mut debezium, &topic, pace)?)
                }
                Turn::Bare => {
                    stage.topic(&topic)?;
                    (None, latency::bare(stage, &topic, pace, 1, Bare::transacting)?)
                }
            };
            stage.remove_topic(&topic)?;
            let visible = run.visible.into_iter().collect();
            latency::announce(round, RATE, name, &visible);
            if let Some(rate) = rate {
                eprintln!("    {:<8} {name:<22} {rate:>10.0} events/s", super::round(round));
            }
            if round > 0 {
                rate.iter().for_each(|rate| found.add(format!("delivery.drain.{name}"), *rate));
                latency::note(&mut found, &format!("delivery.latency.{name}."), &visible);
            }
        }
    }
    drop((ours, debezium));
    stage.server().set("event_outbox.delivery", MODES[0])?;
    compare(&mut found);
    bench.figures.summarise_rounds(&found);
    Ok(())
}

/// The modes beside delivery at least once, Debezium, and librdkafka alone.
fn compare(found: &mut Rounds) {
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
    found.ratio("delivery.latency.ratio_bare_transactions", &p50("exactly_once"), &p50("bare_transactions"));
}

/// Publishes a backlog, and returns the rate at which a consumer gets it.
fn drain(stage: &Stage, outbox: &mut dyn Outbox, name: &str, round: usize, count: u64) -> Result<f64> {
    let topic = format!("delivery-{name}-{round}");
    let load = Load::new(&topic, count);
    stage.topic(&topic)?;
    outbox.fill(&load).context("fill")?;
    stage.checkpoint()?;
    let consumer = pace::reader(&stage.bootstrap_servers(), &topic)?;
    let visible = Times::new(Instant::now(), count);
    outbox.open()?;
    pace::read(&consumer, count, &visible).with_context(|| format!("{name}\n{}", outbox.trouble()))?;
    outbox.close().context("close")?;
    stage.remove_topic(&topic)?;
    Ok(visible.rate())
}

/// Publishes events at a steady rate.
fn steady(stage: &Stage, outbox: &mut dyn Outbox, topic: &str, pace: Pace) -> Result<Run> {
    let watch = stage.topic(topic)?;
    through(stage, outbox, &watch, topic, pace, 1).with_context(|| outbox.trouble())
}
