//! The scenarios, and what they share.

pub mod drain;
pub mod emit;
pub mod flat;
pub mod idle;
pub mod latency;
pub mod profile;
pub mod scale;
pub mod sustained;

use std::fs;
use std::path::PathBuf;

use anyhow::{Result, bail};
use event_outbox_lab::layout;

use crate::figures::Figures;
use crate::stage::Stage;

/// A run of the benchmark.
pub struct Bench {
    /// The servers.
    pub stage: Stage,
    /// What was measured so far.
    pub figures: Figures,
    /// A small run that proves the instrument, not the contenders.
    pub quick: bool,
    /// Rounds, where somebody asked for so many.
    pub rounds: Option<usize>,
}

impl Bench {
    /// One of two sizes.
    pub fn size<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }

    /// How often the contenders take their turn: `BENCH_ROUNDS`, if it is given.
    pub fn rounds(&self, full: usize) -> usize {
        self.rounds.unwrap_or_else(|| self.size(full, 1))
    }
}

/// A scenario by name.
pub struct Scenario {
    /// As given to `make bench SCENARIO=`.
    pub name: &'static str,
    /// Measures, and puts its figures down.
    pub run: fn(&mut Bench) -> Result<()>,
}

/// In the order in which they run.
pub const ALL: [Scenario; 8] = [
    Scenario { name: "drain", run: drain::run },
    Scenario { name: "latency", run: latency::run },
    Scenario { name: "emit", run: emit::run },
    Scenario { name: "sustained", run: sustained::run },
    Scenario { name: "flat", run: flat::run },
    Scenario { name: "idle", run: idle::run },
    Scenario { name: "scale", run: scale::run },
    Scenario { name: "profile", run: profile::run },
];

/// Those named in a list separated by commas; all of them if it is empty.
pub fn chosen(list: &str) -> Result<Vec<&'static Scenario>> {
    let names: Vec<_> = list.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    if let Some(unknown) = names.iter().find(|name| ALL.iter().all(|scenario| scenario.name != **name)) {
        let known: Vec<_> = ALL.iter().map(|scenario| scenario.name).collect();
        bail!("no scenario \"{unknown}\"; there are {}", known.join(", "));
    }
    Ok(ALL.iter().filter(|scenario| names.is_empty() || names.contains(&scenario.name)).collect())
}

/// Where results of this machine go.
pub fn out() -> Result<PathBuf> {
    let out = layout::repository().join("bench/out");
    fs::create_dir_all(&out)?;
    Ok(out)
}

/// What a round is called; nothing counts in the first.
fn round(number: usize) -> String {
    if number == 0 { "warm-up".into() } else { format!("round {number}") }
}
