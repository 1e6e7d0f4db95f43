//! `scale`: one huge transaction, and payloads of four sizes.

pub mod shapes;

use std::time::Instant;

use anyhow::{Context, Result};

use super::Bench;
use super::drain::{Drain, announce, drain};
use crate::contender::limit::Limit;
use crate::contender::ours::Ours;
use crate::contender::{Contender, Headers};
use crate::events::Load;
use crate::figures::Rounds;
use crate::stage::Wal;

const ROUNDS: usize = 3;
/// The number of events in the transaction, of a full run and a quick one.
const BULK: (u64, u64) = (1_000_000, 20_000);
/// The name, the size of a payload in bytes, and the number of events in a round, of a full run and a quick one.
const SIZES: [(&str, usize, (u64, u64)); 4] = [
    ("100b", 100, (500_000, 5_000)),
    ("1kb", 1_000, (200_000, 2_000)),
    ("10kb", 10_000, (25_000, 500)),
    ("100kb", 100_000, (2_500, 50)),
];

/// Measures the rates in bytes.
pub fn run(bench: &mut Bench) -> Result<()> {
    bench.stage.restart(Wal::Replica)?;
    let rounds = bench.rounds(ROUNDS);
    let stage = &bench.stage;
    let mut ours = Ours::new(stage, Headers::Own)?;
    let mut limit = Limit::new(stage, Headers::Own);
    let mut measured = Rounds::default();
    for round in 0..=rounds {
        let mut add = |key: String, sample: f64| {
            if round > 0 {
                measured.add(key, sample);
            }
        };
        for (name, bytes, (full, quick)) in SIZES {
            let count = bench.size(full, quick);
            let count = if round == 0 { count / 5 } else { count };
            let mut contenders: [&mut dyn Contender; 2] = [&mut ours, &mut limit];
            if round % 2 == 1 {
                contenders.reverse();
            }
            for contender in contenders {
                let who = contender.name();
                let load = Load { bytes, ..Load::new(&format!("scale-{who}-{name}-{round}"), count) };
                let arrival = drain(stage, contender, &load).with_context(|| format!("{name}, {who}"))?;
                announce(round, &format!("{who}, {name}"), &arrival);
                add(format!("scale.{name}.{who}_mb_s"), arrival.rate() * bytes as f64 / 1e6);
            }
        }
        let load = Load::new(&format!("scale-bulk-{round}"), bench.size(BULK.0, BULK.1));
        let way = Drain::new(stage, &load)?;
        ours.open()?;
        ours.until_idle()?;
        Ours::insert(&mut stage.connect(crate::stage::OURS)?, &load)?;
        let arrival = way.watch(load.count(), Instant::now()).context("bulk")?;
        way.finish(&mut ours)?;
        announce(round, "one transaction", &arrival);
        add("scale.bulk_rate".into(), arrival.rate());
        add("scale.bulk_s".into(), arrival.wall().as_secs_f64());
    }
    let memory = ours.memory();
    drop((ours, limit));
    memory.note(&mut bench.figures, "memory.scale");
    for (name, ..) in SIZES {
        let [ours, limit] = ["ours", "rdkafka"].map(|who| format!("scale.{name}.{who}_mb_s"));
        measured.ratio(format!("scale.{name}.ratio_rdkafka"), &ours, &limit);
    }
    bench.figures.summarise_rounds(&measured);
    Ok(())
}
