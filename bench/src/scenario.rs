//! The scenarios, and the state that they share.

pub mod additions;
pub mod capture;
pub mod cost;
pub mod crash;
pub mod delivery;
pub mod drain;
pub mod emit;
pub mod flat;
pub mod idle;
pub mod inbox;
pub mod latency;
pub mod profile;
pub mod scale;
pub mod schemas;
pub mod store;
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
    /// The figures that were measured so far.
    pub figures: Figures,
    /// Whether this is a small run, which tests the benchmark and not the contenders.
    pub quick: bool,
    /// The number of rounds, if `BENCH_ROUNDS` gives it.
    pub rounds: Option<usize>,
    /// How many events the inbox stores, if `BENCH_INBOX_EVENTS` gives it.
    pub inbox_events: Option<u64>,
}

impl Bench {
    /// The size for a full or for a small run.
    pub fn size<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }

    /// How many rounds to run: `BENCH_ROUNDS`, if it is given.
    pub fn rounds(&self, full: usize) -> usize {
        self.rounds.unwrap_or_else(|| self.size(full, 1))
    }
}

/// A scenario and its name.
pub struct Scenario {
    /// The name, as `make bench SCENARIO=` takes it.
    pub name: &'static str,
    /// Measures, and sets the figures.
    pub run: fn(&mut Bench) -> Result<()>,
}

/// All scenarios, in the order in which they run.
pub const ALL: [Scenario; 25] = [
    Scenario { name: "drain", run: drain::run },
    Scenario { name: "latency", run: latency::run },
    Scenario { name: "emit", run: emit::run },
    Scenario { name: "delivery", run: delivery::run },
    Scenario { name: "cost", run: cost::run },
    Scenario { name: "crash", run: crash::run },
    Scenario { name: "additions", run: additions::run },
    Scenario { name: "sustained", run: sustained::run },
    Scenario { name: "flat", run: flat::run },
    Scenario { name: "idle", run: idle::run },
    Scenario { name: "scale", run: scale::run },
    Scenario { name: "scale-shapes", run: scale::shapes::run },
    Scenario { name: "inbox-ingest", run: inbox::ingest::run },
    Scenario { name: "inbox-projection", run: inbox::projection::run },
    Scenario { name: "inbox-receive", run: inbox::receive::run },
    Scenario { name: "inbox-work", run: inbox::work::run },
    Scenario { name: "inbox-latency", run: inbox::latency::run },
    Scenario { name: "inbox-flat", run: inbox::flat::run },
    Scenario { name: "inbox-memory", run: inbox::memory::run },
    Scenario { name: "inbox-idle", run: inbox::idle::run },
    Scenario { name: "inbox-beside", run: inbox::beside::run },
    Scenario { name: "schemas", run: schemas::run },
    Scenario { name: "capture", run: capture::run },
    Scenario { name: "store", run: store::run },
    Scenario { name: "profile", run: profile::run },
];

impl Scenario {
    /// Whether a name is this one's, or that of its group: the part before the hyphen.
    fn is_called(&self, name: &str) -> bool {
        let rest = self.name.strip_prefix(name);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    }
}

/// The scenarios in a comma-separated list, or all of them if it is empty.
pub fn chosen(list: &str) -> Result<Vec<&'static Scenario>> {
    let names: Vec<_> = list.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    let is_unknown = |name: &&&str| !ALL.iter().any(|scenario| scenario.is_called(name));
    if let Some(unknown) = names.iter().find(is_unknown) {
        let known: Vec<_> = ALL.iter().map(|scenario| scenario.name).collect();
        bail!("unknown scenario \"{unknown}\"; the scenarios are {}", known.join(", "));
    }
    let is_chosen =
        |scenario: &&Scenario| names.is_empty() || names.iter().any(|name| scenario.is_called(name));
    Ok(ALL.iter().filter(is_chosen).collect())
}

/// The directory for this machine's results: `BENCH_OUT`, if it is given.
pub fn out() -> Result<PathBuf> {
    let out =
        std::env::var_os("BENCH_OUT").map_or_else(|| layout::repository().join("bench/out"), PathBuf::from);
    fs::create_dir_all(&out)?;
    Ok(out)
}

/// The name of a round. The first is a warm-up and does not count.
fn round(number: usize) -> String {
    if number == 0 { "warm-up".into() } else { format!("round {number}") }
}
