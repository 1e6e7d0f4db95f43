//! `drain`: the rate at which a backlog is published.

use std::time::Instant;

use anyhow::{Context, Result};
use event_outbox_lab::progress::{grouped, passed, passing};

use super::Bench;
use crate::arrival::{Arrival, Watch};
use crate::census::Census;
use crate::contender::debezium::Debezium;
use crate::contender::limit::Limit;
use crate::contender::ours::Ours;
use crate::contender::polling::Polling;
use crate::contender::{Contender, Headers};
use crate::events::Load;
use crate::figures::Rounds;
use crate::stage::{PARTITIONS, Stage, Wal};

const ROUNDS: usize = 3;

/// The number of events in a round, of a full run and a quick one. The slow contenders get fewer: the result is a rate,
/// which does not depend on the number.
const MANY: (u64, u64) = (1_000_000, 20_000);
const FEWER: (u64, u64) = (300_000, 5_000);

/// The number of warm-up rounds: until then Java is still compiling the broker's code.
const WARM_UP: usize = 2;

/// Measures all contenders in turn, round by round, in alternating order.
pub fn run(bench: &mut Bench) -> Result<()> {
    let rounds = bench.rounds(ROUNDS);
    let (many, fewer) = (bench.size(MANY.0, MANY.1), bench.size(FEWER.0, FEWER.1));
    bench.stage.restart(Wal::Logical)?;
    let stage = &bench.stage;
    let ours = Ours::new(stage, Headers::Own)?;
    let memory = ours.memory();
    let mut contenders: Vec<(Box<dyn Contender + '_>, u64)> = vec![
        (Box::new(ours), many),
        (Box::new(Debezium::new(stage)?), fewer),
        (Box::new(Polling::new(stage)?), fewer),
        (Box::new(Limit::new(stage, Headers::Own)), many),
        (Box::new(Ours::new(stage, Headers::CloudEvents)?.sharing(&memory)), many),
        (Box::new(Limit::new(stage, Headers::CloudEvents)), many),
    ];
    let mut measured = Rounds::default();
    for turn in 0..WARM_UP + rounds {
        let round = (turn + 1).saturating_sub(WARM_UP);
        for (contender, count) in &mut contenders {
            let (name, count) = (contender.name(), *count);
            let load = Load::new(&format!("drain-{name}-{turn}"), count);
            let drained =
                drain(stage, contender.as_mut(), &load).with_context(|| format!("drain, {name}"))?;
            announce(round, name, &drained);
            if round > 0 {
                let with_start = count as f64 / drained.wall().as_secs_f64();
                measured.add(format!("drain.{name}"), drained.rate());
                measured.add(format!("drain.{name}.with_start"), with_start);
            }
        }
        contenders.reverse();
    }
    drop(contenders);
    memory.note(&mut bench.figures, "memory.drain");
    for peer in ["debezium", "polling", "rdkafka"] {
        measured.ratio(format!("drain.ratio_{peer}"), "drain.ours", &format!("drain.{peer}"));
    }
    let [ours, limit] = ["drain.ours_cloudevents", "drain.rdkafka_cloudevents"];
    measured.ratio("drain.ratio_rdkafka_cloudevents", ours, limit);
    bench.figures.summarise_rounds(&measured);
    Ok(())
}

/// Stores the load, publishes it, watches it arrive, and counts the records.
pub fn drain(stage: &Stage, contender: &mut dyn Contender, load: &Load) -> Result<Arrival> {
    let drain = Drain::new(stage, load)?;
    contender.fill(load).context("fill")?;
    let arrival = drain.measure(contender, load.count())?;
    drain.finish(contender)?;
    Ok(arrival)
}

/// The publication of one load, step by step.
pub struct Drain<'a> {
    stage: &'a Stage,
    load: &'a Load,
    watch: Watch,
}

impl<'a> Drain<'a> {
    /// Creates the topic.
    pub fn new(stage: &'a Stage, load: &'a Load) -> Result<Self> {
        Ok(Self { stage, load, watch: stage.topic(&load.topic)? })
    }

    /// Publishes the stored events until `count` records have arrived.
    pub fn measure(&self, contender: &mut dyn Contender, count: u64) -> Result<Arrival> {
        self.stage.checkpoint()?;
        let begin = Instant::now();
        contender.open()?;
        self.watch(count, begin)
    }

    /// Watches until `count` records have arrived.
    pub fn watch(&self, count: u64, begin: Instant) -> Result<Arrival> {
        let arrival = self.watch.until(count, begin, |records| {
            passing(&format!("{} of {}", grouped(records as usize), grouped(count as usize)));
        });
        passed();
        arrival
    }

    /// Closes the contender, counts the records and removes the topic.
    pub fn finish(self, contender: &mut dyn Contender) -> Result<()> {
        contender.close().context("close")?;
        self.count()
    }

    /// Checks that every event of the load arrived exactly once, and removes the topic.
    pub fn count(self) -> Result<()> {
        let Self { stage, load, watch } = self;
        let census = Census::take(&stage.bootstrap_servers(), load, PARTITIONS, watch.records()?)?;
        census.ensure_exact(load)?;
        stage.remove_topic(&load.topic)
    }
}

/// Prints the result of a round.
pub fn announce(round: usize, name: &str, drained: &Arrival) {
    let round = super::round(round);
    eprintln!(
        "    {round:<8} {name:<20} {:>10} events/s   (first after {:.2} s, all after {:.2} s)",
        grouped(drained.rate() as usize),
        drained.start().as_secs_f64(),
        drained.wall().as_secs_f64()
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tests the benchmark itself: all contenders but Debezium publish a few events, and each is counted.
    #[test]
    fn the_census_counts_the_stored_events() -> Result<()> {
        let stage = Stage::start()?;
        let mut contenders: [Box<dyn Contender + '_>; 3] = [
            Box::new(Ours::new(&stage, Headers::CloudEvents)?),
            Box::new(Polling::new(&stage)?),
            Box::new(Limit::new(&stage, Headers::Own)),
        ];
        for contender in &mut contenders {
            let load = Load::new(&format!("smoke-{}", contender.name()), 2000);
            let arrival = drain(&stage, contender.as_mut(), &load)?;
            assert!(arrival.rate() > 0.0, "{}", contender.name());
        }

        // One event did not arrive, and other records are not events of this load.
        let load = Load::new("smoke-miscounted", 100);
        let [_, _, limit] = &mut contenders;
        let missing = Drain::new(&stage, &load)?;
        limit.fill(&Load::new(&load.topic, 99))?;
        missing.measure(limit.as_mut(), 99)?;
        assert!(missing.finish(limit.as_mut()).is_err());
        let twice = Load::new("smoke-twice", 100);
        let drain = Drain::new(&stage, &twice)?;
        for _ in 0..2 {
            limit.fill(&twice)?;
            drain.measure(limit.as_mut(), 100)?;
            limit.close()?;
        }
        limit.open()?;
        assert!(drain.finish(limit.as_mut()).is_err());
        Ok(())
    }
}
