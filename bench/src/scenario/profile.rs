//! `profile`: flame graphs of the relay while it drains, and of a session that emits.

use std::time::Instant;

use anyhow::{Context, Result};

use super::Bench;
use super::drain::Drain;
use super::emit::{self, Session};
use crate::contender::ours::Ours;
use crate::contender::{Contender, Headers};
use crate::events::Load;
use crate::profile::{self, EMIT_TIME, Profile};
use crate::stage::{OURS, Wal};

const BACKLOG: (u64, u64) = (1_000_000, 50_000);
const TRANSACTIONS: usize = 500;

/// Draws the flame graphs. Nothing is measured, because sampling takes CPU time.
pub fn run(bench: &mut Bench) -> Result<()> {
    if !profile::is_possible() {
        eprintln!("    no flame graphs: perf is not installed, or not allowed to sample");
        bench.figures.note("profile.skipped", "perf is missing, or may not sample");
        return Ok(());
    }
    bench.stage.restart(Wal::Replica)?;
    let out = super::out()?;
    let mut ours = Ours::new(&bench.stage, Headers::Own)?;
    let load = Load::new("profile", bench.size(BACKLOG.0, BACKLOG.1));
    let drain = Drain::new(&bench.stage, &load)?;
    ours.fill(&load)?;
    let sampled = Profile::start(ours.pid()?)?;
    drain.measure(&mut ours, load.count())?;
    sampled.finish("The relay drains a backlog", &out.join("flame-drain.svg")).context("drain")?;
    drain.finish(&mut ours)?;

    let mut session = Session::new(&bench.stage, emit::CPU_EMIT)?;
    session.run(TRANSACTIONS)?;
    let sampled = Profile::start(session.backend())?;
    let begin = Instant::now();
    while begin.elapsed() < EMIT_TIME {
        session.run(TRANSACTIONS)?;
    }
    sampled.finish("One session emits", &out.join("flame-emit.svg")).context("emit")?;
    bench.stage.connect(OURS)?.batch_execute("TRUNCATE outbox.events")?;
    eprintln!("    {} and flame-emit.svg", out.join("flame-drain.svg").display());
    Ok(())
}
