//! `idle`: the cost of the extension while no events are emitted.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use postgres::Client;

use super::Bench;
use super::drain::Drain;
use crate::contender::ours::Ours;
use crate::contender::{Contender, Headers};
use crate::events::Load;
use crate::processes;
use crate::stage::{OURS, Wal};

const OBSERVED: Duration = Duration::from_secs(60);

/// The resources that the processes have used so far.
struct Used {
    at: Instant,
    wakeups: i64,
    sleeps: u64,
    cpu: Duration,
}

/// Measures a minute without work, after some work.
pub fn run(bench: &mut Bench) -> Result<()> {
    bench.stage.restart(Wal::Replica)?;
    let mut ours = Ours::new(&bench.stage, Headers::Own)?;
    let load = Load::new("idle", 1000);
    let drain = Drain::new(&bench.stage, &load)?;
    ours.fill(&load)?;
    drain.measure(&mut ours, load.count())?;
    ours.until_idle()?;

    let mut client = bench.stage.connect(OURS)?;
    let processes = extension_processes(&mut client)?;
    let before = used(&mut client, &processes)?;
    sleep(bench.size(OBSERVED, Duration::from_secs(5)));
    let after = used(&mut client, &processes)?;
    drain.finish(&mut ours)?;
    drop(ours);

    let minutes = (after.at - before.at).as_secs_f64() / 60.0;
    let figures = &mut bench.figures;
    figures.set("idle.wakeups_per_min", (after.wakeups - before.wakeups) as f64 / minutes);
    figures.set("idle.thread_sleeps_per_min", (after.sleeps - before.sleeps) as f64 / minutes);
    figures.set("idle.cpu_ms_per_min", (after.cpu - before.cpu).as_secs_f64() * 1e3 / minutes);
    eprintln!(
        "    {} processes in {:.0} s: {} wake-ups of the relay, {} of all threads, {:.1} ms of CPU",
        processes.len(),
        minutes * 60.0,
        after.wakeups - before.wakeups,
        after.sleeps - before.sleeps,
        (after.cpu - before.cpu).as_secs_f64() * 1e3
    );
    Ok(())
}

/// The relay and the launcher.
fn extension_processes(client: &mut Client) -> Result<Vec<u32>> {
    let sql = "SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'event_outbox%'";
    let rows = client.query(sql, &[])?;
    let pids: Vec<_> = rows.iter().filter_map(|row| u32::try_from(row.get::<_, i32>(0)).ok()).collect();
    anyhow::ensure!(pids.len() == 2, "expected a relay and a launcher, found {pids:?}");
    Ok(pids)
}

fn used(client: &mut Client, processes: &[u32]) -> Result<Used> {
    let wakeups = client.query_one("SELECT wakeups FROM outbox.status", &[]).context("status")?.get(0);
    let mut used = Used { at: Instant::now(), wakeups, sleeps: 0, cpu: Duration::ZERO };
    for pid in processes {
        used.sleeps += processes::sleeps(*pid)?;
        used.cpu += processes::cpu(*pid)?;
    }
    Ok(used)
}
