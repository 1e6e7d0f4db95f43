//! `profile`: flame graphs of the relay while it drains, of a session that emits, and of sessions that receive.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};

use super::Bench;
use super::drain::Drain;
use super::emit::{self, Session};
use super::inbox;
use crate::contender::ours::Ours;
use crate::contender::{Contender, Headers};
use crate::events::Load;
use crate::profile::{self, EMIT_TIME, Profile};
use crate::queue::Queue;
use crate::queue::ours::Receiving;
use crate::stage::{OURS, Wal};

const BACKLOG: (u64, u64) = (1_000_000, 50_000);
const TRANSACTIONS: usize = 500;
const RECEIVED: (u64, u64) = (2_000_000, 200_000);
/// The most events of a call, the file and its title.
const RECEIVERS: [(i32, &str, &str); 2] = [
    (1, "flame-receive-one.svg", "One session receives event by event"),
    (100, "flame-receive.svg", "One session receives a hundred events at a time"),
];

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
    drop(ours);
    receive(bench, &out).context("receive")?;
    eprintln!("    {}", out.join("flame-*.svg").display());
    Ok(())
}

/// Samples a session that receives a hundred events at a time, and one that receives one by one.
fn receive(bench: &Bench, out: &Path) -> Result<()> {
    let (stage, count) = (&bench.stage, bench.size(RECEIVED.0, RECEIVED.1));
    let load = Load::new("profile-receive", count);
    inbox::produce(stage, &load)?;
    let mut queue = Receiving::new(stage, "profile-receive", count)?;
    queue.fill(&load)?;
    for (batch, name, title) in RECEIVERS {
        let mut session = queue.session()?;
        session.take(batch)?;
        let sampled = Profile::start(session.backend())?;
        let begin = Instant::now();
        // Until the time is over, or half of what is left is received.
        let mut left = count / 2;
        while begin.elapsed() < EMIT_TIME && left > 0 {
            left = left.saturating_sub(session.take(batch)?.len() as u64);
        }
        sampled.finish(title, &out.join(name)).with_context(|| name)?;
    }
    queue.empty()?;
    stage.remove_topic("profile-receive")
}
