//! `capture`: what the events of captured tables cost, beside triggers by hand, and beside Debezium that reads the tables.

mod debezium;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use postgres::Client;

use self::debezium::TableReader;
use super::Bench;
use crate::contender::ours::Ours;
use crate::contender::{Contender, Headers};
use crate::figures::Rounds;
use crate::processes;
use crate::stage::{OURS, PEERS, Stage, Wal};
use crate::tpcb::{self, CHANGES, TOPIC, Way};

/// Rounds of short slices, so that a disturbance affects all ways.
const ROUNDS: usize = 6;
const TRANSACTIONS: u64 = 8_000;

const BULK_ROWS: u64 = 100_000;

/// Measures the application's part first, then the whole way to Kafka.
pub fn run(bench: &mut Bench) -> Result<()> {
    bench.stage.restart(Wal::Replica)?;
    let mut client = bench.stage.connect(OURS)?;
    tpcb::create(&bench.stage, OURS)?;
    let measured = transactions(bench, &mut client).context("TPC-B")?;
    bench.figures.summarise_rounds(&measured);
    let measured = bulk(bench, &mut client).context("bulk")?;
    bench.figures.summarise_rounds(&measured);
    drop(client);
    bench.stage.restart(Wal::Logical)?;
    let measured = to_kafka(bench).context("to Kafka")?;
    bench.figures.summarise_rounds(&measured);
    for table in tpcb::TABLES {
        bench.stage.connect(OURS)?.batch_execute(&format!("DROP TABLE {}", table.0))?;
    }
    bench.stage.restart(Wal::Replica)
}

/// Small transactions: four changes each. The relay is off.
fn transactions(bench: &Bench, client: &mut Client) -> Result<Rounds> {
    let (stage, count) = (&bench.stage, bench.size(TRANSACTIONS, 400));
    let mut ways = [Way::Nothing, Way::ByHand, Way::Row];
    let mut measured = Rounds::default();
    for round in 0..=bench.rounds(ROUNDS) {
        let mut cpu = BTreeMap::new();
        for way in ways {
            tpcb::set(client, way)?;
            stage.checkpoint()?;
            let before = processes::cpu_of_tree(stage.server().pid()?)?;
            let ran = tpcb::run(stage, OURS, count)?;
            let used = processes::cpu_of_tree(stage.server().pid()?)?.saturating_sub(before);
            ensure_events(client, if way == Way::Nothing { 0 } else { ran.transactions * CHANGES })?;
            tidy(client)?;
            cpu.insert(way.name(), micros(used, ran.transactions));
            if round > 0 {
                measured.add(format!("capture.tpcb.{}_tps", way.name()), ran.tps);
                measured.add(format!("capture.tpcb.{}_cpu_us", way.name()), cpu[way.name()]);
            }
        }
        announce(round, "CPU of a transaction in µs", &cpu);
        ways.reverse();
    }
    tpcb::set(client, Way::Nothing)?;
    more_than_none(&mut measured, "capture.tpcb", &["by_hand", "row"]);
    measured.ratio("capture.tpcb.ratio_by_hand", "capture.tpcb.by_hand_more_us", "capture.tpcb.row_more_us");
    measured.ratio("capture.tpcb.ratio_tps", "capture.tpcb.row_tps", "capture.tpcb.by_hand_tps");
    Ok(measured)
}

/// One statement that changes many rows. The CPU time is the session's.
fn bulk(bench: &Bench, client: &mut Client) -> Result<Rounds> {
    let (stage, rows) = (&bench.stage, bench.size(BULK_ROWS, 5_000));
    let backend: i32 = client.query_one("SELECT pg_backend_pid()", &[])?.get(0);
    let backend = u32::try_from(backend)?;
    let update = format!("UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid <= {rows}");
    let mut ways = [Way::Nothing, Way::ByHand, Way::Row, Way::Statement];
    let mut measured = Rounds::default();
    for round in 0..=bench.rounds(ROUNDS) {
        let mut cpu = BTreeMap::new();
        for way in ways {
            tpcb::set(client, way)?;
            stage.checkpoint()?;
            let (before, begin) = (processes::cpu(backend)?, Instant::now());
            client.batch_execute(&update)?;
            let (used, took) = (processes::cpu(backend)? - before, begin.elapsed());
            ensure_events(client, if way == Way::Nothing { 0 } else { rows })?;
            tidy(client)?;
            cpu.insert(way.name(), micros(used, rows));
            if round > 0 {
                measured.add(format!("capture.bulk.{}_cpu_us", way.name()), cpu[way.name()]);
                measured.add(format!("capture.bulk.{}_us", way.name()), micros(took, rows));
            }
        }
        announce(round, "CPU of a row in µs", &cpu);
        ways.reverse();
    }
    tpcb::set(client, Way::Nothing)?;
    more_than_none(&mut measured, "capture.bulk", &["by_hand", "row", "statement"]);
    for other in ["by_hand", "row"] {
        let (dividend, divisor) = (format!("capture.bulk.{other}_more_us"), "capture.bulk.statement_more_us");
        measured.ratio(format!("capture.bulk.ratio_{other}"), &dividend, divisor);
    }
    Ok(measured)
}

/// The CPU time of the server, and of Connect, from the first transaction to the last record.
fn to_kafka(bench: &Bench) -> Result<Rounds> {
    let (stage, count) = (&bench.stage, bench.size(TRANSACTIONS, 400));
    let changes = count * CHANGES;
    tpcb::create(stage, PEERS)?;
    let mut client = stage.connect(OURS)?;
    let mut measured = Rounds::default();
    let mut reader = TableReader::new(stage)?;
    for round in 0..=bench.rounds(3) {
        let mut cpu = BTreeMap::new();
        tpcb::set(&mut client, Way::Nothing)?;
        cpu.insert("none", used(stage, None, || tpcb::run(stage, OURS, count).map(drop))?);
        cpu.insert("ours", ours(stage, &mut client, count)?);
        cpu.insert("debezium", reader.measure(count)?);
        let cpu: BTreeMap<_, _> = cpu.into_iter().map(|(name, used)| (name, micros(used, changes))).collect();
        announce(round, "CPU of a change in µs", &cpu);
        if round > 0 {
            for (name, used) in &cpu {
                measured.add(format!("capture.kafka.{name}_cpu_us"), *used);
            }
        }
    }
    more_than_none(&mut measured, "capture.kafka", &["ours", "debezium"]);
    let [debezium, ours] = ["debezium", "ours"].map(|name| format!("capture.kafka.{name}_more_us"));
    measured.ratio("capture.kafka.ratio_debezium", &debezium, &ours);
    Ok(measured)
}

fn ours(stage: &Stage, client: &mut Client, transactions: u64) -> Result<Duration> {
    tpcb::set(client, Way::Row)?;
    let watch = stage.topic(TOPIC)?;
    let mut ours = Ours::new(stage, Headers::CloudEvents)?;
    ours.open()?;
    ours.until_idle()?;
    let used = used(stage, None, || {
        tpcb::run(stage, OURS, transactions)?;
        ours.until_empty()
    })?;
    let (records, changes) = (watch.records()?, transactions * CHANGES);
    ensure!((changes * 99 / 100..=changes).contains(&records), "{records} records of {changes} changes");
    ours.close()?;
    tpcb::set(client, Way::Nothing)?;
    stage.remove_topic(TOPIC)?;
    Ok(used)
}

/// The CPU time that the server, and another process, take for some work.
fn used(stage: &Stage, other: Option<u32>, work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let now = || -> Result<Duration> {
        let server = processes::cpu_of_tree(stage.server().pid()?)?;
        Ok(server + other.map_or(Ok(Duration::ZERO), processes::cpu)?)
    };
    stage.checkpoint()?;
    let before = now()?;
    work()?;
    Ok(now()?.saturating_sub(before))
}

/// Removes the events and the dead rows. VACUUM runs in no block with other commands.
fn tidy(client: &mut Client) -> Result<()> {
    client.batch_execute("TRUNCATE outbox.events")?;
    Ok(client.batch_execute("VACUUM pgbench_accounts, pgbench_branches, pgbench_tellers")?)
}

/// Some transactions of pgbench move an amount of 0: such an UPDATE changes nothing, and is no event of a captured table.
fn ensure_events(client: &mut Client, changes: u64) -> Result<()> {
    let found: i64 = client.query_one("SELECT count(*) FROM outbox.events", &[])?.get(0);
    let (found, least) = (u64::try_from(found)?, changes * 99 / 100);
    ensure!((least..=changes).contains(&found), "{found} events of {changes} changes");
    Ok(())
}

/// Adds by how much each way exceeds none, round by round.
fn more_than_none(measured: &mut Rounds, prefix: &str, names: &[&str]) {
    for name in names {
        let key = |name: &str| format!("{prefix}.{name}_cpu_us");
        measured.difference(format!("{prefix}.{name}_more_us"), &key(name), &key("none"));
    }
}

fn micros(time: Duration, count: u64) -> f64 {
    time.as_secs_f64() * 1e6 / count as f64
}

fn announce(round: usize, what: &str, figures: &BTreeMap<&str, f64>) {
    let line: String = figures.iter().map(|(name, figure)| format!("  {name} {figure:>7.2}")).collect();
    eprintln!("    {:<8} {what}: {line}", super::round(round));
}
