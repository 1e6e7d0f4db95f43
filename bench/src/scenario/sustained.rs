//! `sustained`: the relay's backlog while writers emit as fast as they can for minutes.

use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use event_outbox_lab::progress::{grouped, passed, passing};
use postgres::Client;

use super::Bench;
use crate::contender::ours::Ours;
use crate::contender::{Contender, Headers};
use crate::pgbench::{Pgbench, Ran};
use crate::processes;
use crate::stage::{OURS, Stage, Wal};

const SECONDS: u64 = 180;
const CLIENTS: usize = 8;
const TOPIC: &str = "emit";
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How much the mean backlog of the last third may exceed that of the third before: by chance, and by a few batches.
const GROWTH: f64 = 1.1;
const BATCHES: f64 = 20_000.0;

/// The CPU time used so far.
#[derive(Clone, Copy)]
struct Cpu {
    relay: Duration,
    server: Duration,
    kafka: Duration,
}

/// Measures one long run.
pub fn run(bench: &mut Bench) -> Result<()> {
    bench.stage.restart(Wal::Replica)?;
    let seconds = bench.size(SECONDS, 6);
    let stage = &bench.stage;
    let watch = stage.topic(TOPIC)?;
    let mut ours = Ours::new(stage, Headers::Own)?;
    stage.checkpoint()?;
    ours.open()?;
    ours.until_idle()?;
    let mut client = stage.connect(OURS)?;
    let (relay, wal) = (ours.pid()?, wal(&mut client)?);
    let before = cpu(stage, relay)?;
    let (ran, backlogs) = load(stage, &mut client, seconds)?;
    let stopped = Instant::now();
    watch.until(ran.transactions, stopped, |_| {})?;
    let drained = stopped.elapsed();
    ours.until_idle()?;
    let after = cpu(stage, relay)?;
    let wal = self::wal(&mut client)? - wal;
    ours.close()?;
    let records = watch.records()?;
    ensure!(records == ran.transactions, "{records} records of {} transactions", ran.transactions);
    stage.remove_topic(TOPIC)?;
    let memory = ours.memory();
    drop(ours);

    memory.note(&mut bench.figures, "memory.sustained");
    let figures = &mut bench.figures;
    figures.set("sustained.tps", ran.tps);
    figures.set("sustained.latency_ms", ran.latency_ms);
    figures.set("sustained.events", ran.transactions as f64);
    figures.note("sustained.backlog_bounded", is_bounded(&backlogs));
    figures.note("sustained.backlog", backlogs.iter().map(|b| b.1).collect::<Vec<_>>());
    figures.summarise("sustained.backlog_median", &backlogs.iter().map(|b| b.1 as f64).collect());
    figures.set("sustained.drained_after_s", drained.as_secs_f64());
    figures.set("sustained.wal_bytes_per_event", wal as f64 / ran.transactions as f64);
    let per_100k = |time: Duration| time.as_secs_f64() * 1e5 / ran.transactions as f64;
    figures.set("sustained.cpu_s_per_100k.relay", per_100k(after.relay - before.relay));
    figures.set("sustained.cpu_s_per_100k.server", per_100k(after.server - before.server));
    figures.set("sustained.cpu_s_per_100k.kafka", per_100k(after.kafka - before.kafka));
    eprintln!(
        "    {:.0} events/s for {seconds} s, backlog at most {}, all published {:.2} s after the end",
        ran.tps,
        grouped(backlogs.iter().map(|b| b.1).max().unwrap_or(0) as usize),
        drained.as_secs_f64()
    );
    Ok(())
}

/// Writes for the given time. Returns the backlog of each second.
fn load(stage: &Stage, client: &mut Client, seconds: u64) -> Result<(Ran, Vec<(f64, i64)>)> {
    let pgbench = Pgbench { script: "emit", clients: CLIENTS, seconds };
    let before = backlog(client)?;
    let begin = Instant::now();
    scope(|threads| {
        let pgbench = threads.spawn(|| pgbench.run(stage));
        let mut backlogs = Vec::new();
        while !pgbench.is_finished() {
            sleep(LOOK_EVERY);
            let backlog = backlog(client)? - before;
            backlogs.push((begin.elapsed().as_secs_f64(), backlog));
            passing(&format!(
                "{:.0} s, backlog {}",
                begin.elapsed().as_secs_f64(),
                grouped(backlog.max(0) as usize)
            ));
        }
        passed();
        let ran = pgbench.join().map_err(|_| anyhow!("pgbench's thread panicked"))??;
        Ok((ran, backlogs))
    })
}

/// The number of events that were emitted and not yet settled, up to a constant. No transaction is rolled back, so the
/// sequence counts the events.
fn backlog(client: &mut Client) -> Result<i64> {
    let sql = "SELECT last_value - published FROM outbox.events_id_seq, outbox.status";
    Ok(client.query_one(sql, &[])?.get(0))
}

fn is_bounded(backlogs: &[(f64, i64)]) -> bool {
    let third = backlogs.len() / 3;
    let mean = |part: &[(f64, i64)]| part.iter().map(|b| b.1 as f64).sum::<f64>() / part.len().max(1) as f64;
    let (middle, last) = (mean(&backlogs[third..2 * third]), mean(&backlogs[2 * third..]));
    last <= middle * GROWTH + BATCHES
}

/// The bytes of write-ahead log written so far.
fn wal(client: &mut Client) -> Result<i64> {
    let sql = "SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint";
    Ok(client.query_one(sql, &[])?.get(0))
}

fn cpu(stage: &Stage, relay: u32) -> Result<Cpu> {
    let relay = processes::cpu(relay)?;
    let server = processes::cpu_of_tree(stage.server().pid()?)?.saturating_sub(relay);
    Ok(Cpu { relay, server, kafka: processes::cpu(stage.broker().pid()?)? })
}
