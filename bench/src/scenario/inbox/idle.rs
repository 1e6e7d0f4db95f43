//! The cost of a subscription while no events come.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;
use event_outbox_lab::wait;

use super::super::Bench;
use crate::events::Load;
use crate::processes;
use crate::reader::Reader;
use crate::reader::ours::Inbox;
use crate::stage::Wal;

const OBSERVED: (u64, u64) = (60, 5);
const EVENTS: u64 = 1000;
const TOPIC: &str = "inbox-idle";
const DEADLINE: Duration = Duration::from_secs(60);

/// Observes the worker for a minute, after some work.
pub fn run(bench: &mut Bench) -> Result<()> {
    bench.stage.restart(Wal::Replica)?;
    let seconds = bench.size(OBSERVED.0, OBSERVED.1);
    let stage = &bench.stage;
    super::produce(stage, &Load::new(TOPIC, EVENTS))?;
    let mut inbox = Inbox::new(stage)?;
    inbox.open(TOPIC)?;
    wait::until_ok("the events to be stored", DEADLINE, || Ok((inbox.stored()? >= EVENTS).then_some(())))?;
    inbox.until_idle()?;
    let pid = inbox.pid()?;
    // What the end of the work has left to do is over by then.
    sleep(Duration::from_secs(bench.size(5, 1)));
    let (begin, cpu, sleeps) = (Instant::now(), processes::cpu(pid)?, processes::sleeps(pid)?);
    sleep(Duration::from_secs(seconds));
    let minutes = begin.elapsed().as_secs_f64() / 60.0;
    let cpu = (processes::cpu(pid)? - cpu).as_secs_f64() * 1e3;
    let sleeps = processes::sleeps(pid)? - sleeps;
    inbox.end()?;
    stage.remove_topic(TOPIC)?;
    bench.figures.set("inbox.idle.cpu_ms_per_min", cpu / minutes);
    bench.figures.set("inbox.idle.thread_sleeps_per_min", sleeps as f64 / minutes);
    eprintln!("    the worker in {seconds} s: {cpu:.1} ms of CPU, {sleeps} wake-ups of its threads");
    Ok(())
}
