//! The latency of the relay while the inbox stores a backlog as fast as it can.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use event_outbox_lab::wait;

use super::super::{Bench, latency};
use crate::contender::Headers;
use crate::contender::ours::Ours;
use crate::events::Load;
use crate::figures::{Rounds, Samples};
use crate::pace::Pace;
use crate::reader::Reader;
use crate::reader::ours::Inbox;
use crate::stage::{Stage, Wal};

const ROUNDS: usize = 3;
const RATE: u64 = 100;
const SECONDS: (u64, u64) = (6, 2);
/// More than is stored meanwhile.
const BACKLOG: (u64, u64) = (3_000_000, 1_000_000);
const TOPIC: &str = "inbox-beside";
const DEADLINE: Duration = Duration::from_secs(60);

/// Measures both in turn, in alternating order. The first round is a warm-up.
pub fn run(bench: &mut Bench) -> Result<()> {
    let rounds = bench.rounds(ROUNDS);
    let seconds = bench.size(SECONDS.0, SECONDS.1) + latency::WARM_UP_SECONDS;
    bench.stage.restart(Wal::Replica)?;
    let stage = &bench.stage;
    let backlog = Load::new(TOPIC, bench.size(BACKLOG.0, BACKLOG.1));
    super::produce(stage, &backlog).context("filling the topic")?;
    let mut ours = Ours::new(stage, Headers::Own)?;
    let mut inbox = Inbox::new(stage)?;
    let mut percentiles = Rounds::default();
    let mut cases = [("alone", false), ("beside", true)];
    for round in 0..=rounds {
        for (name, is_beside) in cases {
            if is_beside {
                begin(&ours, &mut inbox)?;
            }
            let pace = Pace::new(RATE, RATE * seconds);
            let samples =
                publish(stage, &mut ours, &format!("inbox-beside-{name}-{round}"), pace).context(name)?;
            if is_beside {
                let stored = inbox.stored()?;
                inbox.end()?;
                ensure!(stored < backlog.count(), "the backlog was stored before the measurement ended");
            }
            latency::announce(round, RATE, name, &samples);
            if round > 0 {
                latency::note(&mut percentiles, &format!("inbox.beside.{name}."), &samples);
            }
        }
        cases.reverse();
    }
    drop(ours);
    for percentile in ["p50", "p99"] {
        let [beside, alone] = ["beside", "alone"].map(|name| format!("inbox.beside.{name}.{percentile}_ms"));
        percentiles.ratio(format!("inbox.beside.{percentile}_ratio"), &beside, &alone);
    }
    stage.remove_topic(TOPIC)?;
    bench.figures.summarise_rounds(&percentiles);
    Ok(())
}

/// Starts to store the backlog.
fn begin(ours: &Ours<'_>, inbox: &mut Inbox) -> Result<()> {
    ours.enable()?;
    inbox.open(TOPIC)?;
    wait::until_ok("the first events to be stored", DEADLINE, || Ok((inbox.stored()? > 0).then_some(())))
}

fn publish(stage: &Stage, ours: &mut Ours<'_>, topic: &str, pace: Pace) -> Result<Samples> {
    let watch = stage.topic(topic)?;
    let run = latency::through(stage, ours, &watch, topic, pace, 1)?;
    stage.remove_topic(topic)?;
    Ok(run.visible.into_iter().collect())
}
