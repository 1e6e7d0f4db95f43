//! `emit`: the cost of an outbox for the application.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use postgres::{Client, Statement};

use super::Bench;
use crate::contender::ours::Ours;
use crate::contender::{Contender, Headers};
use crate::events;
use crate::figures::Rounds;
use crate::pgbench::Pgbench;
use crate::processes;
use crate::stage::{OURS, PARTITIONS, Stage, Wal};

const CLIENTS: [usize; 3] = [1, 8, 32];
/// Short slices in turn, in alternating order, so that a disturbance affects all of them, and none always suffers from
/// the writes that another has left to the disk.
const ROUNDS: usize = 6;
const SLICE_S: u64 = 2;

/// The scripts and their names in the figures. The relay is off, except for the last.
const VARIANTS: [(&str, &str); 5] =
    [("none", "none"), ("insert", "insert"), ("emit", "emit"), ("notify", "notify"), ("emit", "emit_relay")];
const WITH_RELAY: &str = "emit_relay";

const EMPTY: &str = "TRUNCATE orders, bare_events, notifying_events, outbox.events";

/// The number of slices of one client, measured alternately, and of transactions in each.
const CPU_SLICES: usize = 30;
const CPU_SLICE: usize = 500;

const CPU_INSERT: &str = "
INSERT INTO bare_events (topic, key, payload, headers, content_type)
VALUES ('emit', convert_to($1, 'UTF8'), convert_to($2, 'UTF8'), $3::text::json, 'application/json')";
/// The statement that calls `emit()`.
pub const CPU_EMIT: &str =
    "SELECT outbox.emit('emit', $2::text::jsonb, key => $1, headers => $3::text::jsonb)";

/// Measures transactions of one event each, with and without an outbox.
pub fn run(bench: &mut Bench) -> Result<()> {
    bench.stage.restart(Wal::Replica)?;
    let (rounds, seconds) = (bench.rounds(ROUNDS), bench.size(SLICE_S, 1));
    let stage = &bench.stage;
    let mut client = stage.connect(OURS)?;
    client.batch_execute(include_str!("../../emit/tables.sql"))?;
    stage.broker().create_topic("emit", PARTITIONS, &[])?;
    let mut ours = Ours::new(stage, Headers::Own)?;
    ours.disable()?;

    let mut variants = VARIANTS;
    let mut measured = Rounds::default();
    for round in 0..=rounds {
        stage.checkpoint()?;
        for clients in CLIENTS {
            let mut rates = BTreeMap::new();
            for (script, name) in variants {
                let ran = slice(stage, &mut ours, &Pgbench { script, clients, seconds }, name)?;
                rates.insert(name, ran.tps);
                if round > 0 {
                    measured.add(format!("emit.{clients}.{name}_tps"), ran.tps);
                    measured.add(format!("emit.{clients}.{name}_ms"), ran.latency_ms);
                }
            }
            let line = VARIANTS.map(|(_, name)| format!("  {name} {:>6.0}", rates[name])).concat();
            eprintln!("    {:<8} {clients:>2} clients {line}", super::round(round));
        }
        variants.reverse();
    }
    let cpu = cpu(stage, bench.size(CPU_SLICES, 3)).context("CPU")?;
    client.batch_execute(EMPTY)?;
    stage.remove_topic("emit")?;

    for clients in CLIENTS {
        let tps = |name| format!("emit.{clients}.{name}_tps");
        let emit = tps("emit");
        measured.ratio(format!("emit.ratio_insert_{clients}"), &emit, &tps("insert"));
        measured.ratio(format!("emit.ratio_notify_{clients}"), &emit, &tps("notify"));
        measured.ratio(format!("emit.ratio_insert_{clients}_relay"), &tps(WITH_RELAY), &tps("insert"));
    }
    bench.figures.summarise_rounds(&measured);
    bench.figures.summarise_rounds(&cpu);
    Ok(())
}

fn slice(stage: &Stage, ours: &mut Ours<'_>, pgbench: &Pgbench, name: &str) -> Result<crate::pgbench::Ran> {
    if name == WITH_RELAY {
        ours.open()?;
        ours.until_idle()?;
    }
    let ran = pgbench.run(stage).with_context(|| name.to_string())?;
    if name == WITH_RELAY {
        ours.close()?;
    }
    stage.connect(OURS)?.batch_execute(EMPTY)?;
    Ok(ran)
}

/// A session that repeats the same statement.
pub struct Session {
    client: Client,
    statement: Statement,
    backend: u32,
}

impl Session {
    /// The statement takes a key, a payload and headers, as text.
    pub fn new(stage: &Stage, sql: &str) -> Result<Self> {
        let mut client = stage.connect(OURS)?;
        let backend: i32 = client.query_one("SELECT pg_backend_pid()", &[])?.get(0);
        Ok(Self { statement: client.prepare(sql)?, client, backend: u32::try_from(backend)? })
    }

    /// The same, after the session has run something else.
    pub fn with(stage: &Stage, setting: &str, sql: &str) -> Result<Self> {
        let mut session = Self::new(stage, sql)?;
        session.client.batch_execute(setting)?;
        Ok(session)
    }

    /// The process id of the session.
    pub fn backend(&self) -> u32 {
        self.backend
    }

    /// The CPU time that the server takes for these transactions.
    pub fn run(&mut self, transactions: usize) -> Result<Duration> {
        let before = processes::cpu(self.backend)?;
        for n in 0..transactions {
            let n = i64::try_from(n)?;
            let payload = events::payload(n, events::PAYLOAD_BYTES);
            self.client.execute(&self.statement, &[&events::key(n), &payload, &events::headers(n)])?;
        }
        Ok(processes::cpu(self.backend)? - before)
    }
}

/// Microseconds of CPU per transaction in the server: INSERT, emit(), and their quotient.
fn cpu(stage: &Stage, slices: usize) -> Result<Rounds> {
    const INSERT: &str = "emit.cpu_us_insert";
    const EMIT: &str = "emit.cpu_us_emit";
    let mut sessions = [(INSERT, Session::new(stage, CPU_INSERT)?), (EMIT, Session::new(stage, CPU_EMIT)?)];
    let mut measured = Rounds::default();
    for slice in 0..=slices {
        for (key, session) in &mut sessions {
            let used = session.run(CPU_SLICE)?;
            if slice > 0 {
                measured.add(*key, used.as_secs_f64() * 1e6 / CPU_SLICE as f64);
            }
        }
    }
    measured.ratio("emit.cpu_ratio_1", EMIT, INSERT);
    Ok(measured)
}
