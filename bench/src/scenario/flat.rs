//! `flat`: whether the rate depends on the size of the backlog, or on other transactions.

use std::time::Instant;

use anyhow::{Context, Result};

use super::Bench;
use super::drain::{Drain, announce};
use crate::arrival::Arrival;
use crate::contender::ours::Ours;
use crate::contender::{Contender, Headers, Outbox};
use crate::events::Load;
use crate::figures::Rounds;
use crate::stage::{OURS, Stage, Wal};

const ROUNDS: usize = 3;
/// Full and quick.
const BACKLOG: (u64, u64) = (1_000_000, 20_000);
const SMALL: (u64, u64) = (100_000, 5_000);
const LARGE: (u64, u64) = (10_000_000, 50_000);
/// The size at which a backlog is split into several transactions.
const FILL_AT_ONCE: u64 = 1_000_000;

/// The disturbance during a measurement.
#[derive(Clone, Copy, PartialEq)]
enum Meanwhile {
    Nothing,
    /// A REPEATABLE READ transaction has stayed open since before an equal number of events was published. Their dead rows
    /// remain in the table, and so will those of the measured events.
    HeldHorizon,
    /// The transaction that emitted the very first event is still open.
    LongWriter,
}

/// Measures backlogs of three sizes, and disturbed ones.
pub fn run(bench: &mut Bench) -> Result<()> {
    bench.stage.restart(Wal::Replica)?;
    let rounds = bench.rounds(ROUNDS);
    let (backlog, small) = (bench.size(BACKLOG.0, BACKLOG.1), bench.size(SMALL.0, SMALL.1));
    let large = bench.size(LARGE.0, LARGE.1);
    let mut ours = Ours::new(&bench.stage, Headers::Own)?;
    let mut cases = [
        ("free", backlog, Meanwhile::Nothing),
        ("held_xmin", backlog, Meanwhile::HeldHorizon),
        ("long_writer", backlog, Meanwhile::LongWriter),
        ("100k", small, Meanwhile::Nothing),
    ];
    let mut measured = Rounds::default();
    let warm_up = Load::new("flat-warm-up", backlog / 5);
    one(&bench.stage, &mut ours, &warm_up, Meanwhile::Nothing).context("warm-up")?;
    for round in 1..=rounds {
        for (name, count, meanwhile) in cases {
            let load = Load::new(&format!("flat-{name}-{round}"), count);
            let arrival = one(&bench.stage, &mut ours, &load, meanwhile).with_context(|| name.to_string())?;
            announce(round, name, &arrival);
            measured.add(format!("flat.{name}_rate"), arrival.rate());
        }
        cases.reverse();
    }
    // The largest is measured only once, since it takes minutes. So its reference is measured before and after it.
    let mut undisturbed = |name, count| {
        let load = Load::new(&format!("flat-{name}"), count);
        let arrival = one(&bench.stage, &mut ours, &load, Meanwhile::Nothing).context(name)?;
        announce(1, name, &arrival);
        anyhow::Ok(arrival.rate())
    };
    let before = undisturbed("before-10m", backlog)?;
    measured.add("flat.10m_rate", undisturbed("10m", large)?);
    let after = undisturbed("after-10m", backlog)?;
    measured.add("flat.10m_free_rate", f64::midpoint(before, after));
    let memory = ours.memory();
    drop(ours);

    memory.note(&mut bench.figures, "memory.flat");
    for case in ["100k", "held_xmin", "long_writer"] {
        measured.ratio(format!("flat.{case}"), &format!("flat.{case}_rate"), "flat.free_rate");
    }
    measured.ratio("flat.10m", "flat.10m_rate", "flat.10m_free_rate");
    bench.figures.summarise_rounds(&measured);
    Ok(())
}

fn one(stage: &Stage, ours: &mut Ours<'_>, load: &Load, meanwhile: Meanwhile) -> Result<Arrival> {
    match meanwhile {
        Meanwhile::Nothing => {
            let drain = Drain::new(stage, load)?;
            fill(ours, load)?;
            let arrival = drain.measure(ours, load.count())?;
            drain.finish(ours)?;
            Ok(arrival)
        }
        Meanwhile::HeldHorizon => with_held_horizon(stage, ours, load),
        Meanwhile::LongWriter => with_long_writer(stage, ours, load),
    }
}

fn fill(ours: &mut Ours<'_>, load: &Load) -> Result<()> {
    let mut part = load.clone();
    for first in load.numbers.clone().step_by(FILL_AT_ONCE as usize) {
        part.numbers = first..=(*load.numbers.end()).min(first + FILL_AT_ONCE.cast_signed() - 1);
        ours.fill(&part)?;
    }
    Ok(())
}

fn with_held_horizon(stage: &Stage, ours: &mut Ours<'_>, load: &Load) -> Result<Arrival> {
    let mut holder = stage.connect(OURS)?;
    // The first query takes the snapshot.
    holder.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")?;

    let earlier = Load { topic: format!("{}-earlier", load.topic), ..load.clone() };
    let drain = Drain::new(stage, &earlier)?;
    fill(ours, &earlier)?;
    drain.measure(ours, earlier.count())?;
    ours.rest()?;
    drain.count()?;

    let drain = Drain::new(stage, load)?;
    fill(ours, load)?;
    let arrival = drain.measure(ours, load.count())?;
    ours.rest()?;
    holder.batch_execute("COMMIT")?;
    drain.finish(ours)?;
    Ok(arrival)
}

fn with_long_writer(stage: &Stage, ours: &mut Ours<'_>, load: &Load) -> Result<Arrival> {
    let drain = Drain::new(stage, load)?;
    let mut client = stage.connect(OURS)?;
    let mut writer = client.transaction()?;
    writer.execute(ours.insert_one(), &[&load.topic, load.numbers.start()])?;
    let others = Load { numbers: load.numbers.start() + 1..=*load.numbers.end(), ..load.clone() };
    fill(ours, &others)?;
    let arrival = drain.measure(ours, others.count())?;
    // Its event has the lowest id, and arrives last.
    let begin = Instant::now();
    writer.commit()?;
    drain.watch(load.count(), begin).context("the long writer's event")?;
    drain.finish(ours)?;
    Ok(arrival)
}
