//! `make demo`: publishes the events of pgbench's transactions, receives them in another database, and counts what arrived
//! in Kafka and there.

mod report;
mod subscriber;
mod workload;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use event_outbox_lab::progress::{passed, passing, step};
use event_outbox_lab::verdict::{Promise, Verdict};
use event_outbox_lab::{Broker, Cluster, Consumer, Result, process, wait};
use postgres::Client;

use crate::report::Report;
use crate::subscriber::Subscriber;
use crate::workload::Workload;

const TOPIC: &str = "pgbench_history";
const PARTITIONS: i32 = 6;
const DATABASE: &str = "demo";
const DRAINING: &str = "waiting for the relay to empty outbox.events";
const DRAIN_DEADLINE: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    process::exit_in_order_on_signals();
    match demo() {
        Ok(report) => {
            println!("{report}");
            if report.is_right() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            if !process::interrupted() {
                eprintln!("\nerror: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

fn demo() -> Result<Report> {
    let workload = Workload::from_args(std::env::args().skip(1))?;
    let broker = step("starting Apache Kafka", || Broker::options().start())?;
    // LogAppendTime: the record's timestamp says when the broker had it.
    broker.create_topic(TOPIC, PARTITIONS, &[("message.timestamp.type", "LogAppendTime")])?;
    let cluster = step("starting PostgreSQL", || {
        Cluster::options("demo")
            .durable()
            .set("event_outbox.bootstrap_servers", broker.bootstrap_servers())
            .set("track_commit_timestamp", "on")
            .start()
    })?;
    let mut client = step(&format!("pgbench -i, {} accounts", workload.accounts()), || {
        cluster.connect("postgres")?.batch_execute(&format!("CREATE DATABASE {DATABASE}"))?;
        workload.initialise(&cluster, DATABASE)?;
        let mut client = cluster.connect(DATABASE)?;
        client.batch_execute(include_str!("../../../demo/setup.sql")).context("setup.sql")?;
        Ok(client)
    })?;
    let mut subscriber =
        step("creating a database that subscribes to the topic", || Subscriber::create(&cluster))?;
    let fast = step(&workload.to_string(), || workload.run(&cluster, DATABASE))?;
    let mut drained = step(DRAINING, || drain(&mut client));
    let last_fast: i64 = client.query_one("SELECT coalesce(max(seq), 0) FROM journal", &[])?.get(0);
    let mut rolled_back = fast.rolled_back;
    if drained.is_ok() {
        rolled_back += step(&workload::steady(), || workload.run_steadily(&cluster, DATABASE))?.rolled_back;
        drained = step(DRAINING, || drain(&mut client));
    }
    if let Err(error) = drained {
        eprintln!("\n{error:#}; the server's log ends with\n{}", tail(&cluster.log()));
    }
    let left = pending(&mut client)?;

    let promises = promises(&mut client)?;
    let records = step("reading Kafka back", || Consumer::read_all(&broker.bootstrap_servers(), &[TOPIC]))?;
    let committed: i64 = client.query_one("SELECT count(*) FROM pgbench_history", &[])?.get(0);
    let committed = usize::try_from(committed)?;
    if committed != promises.len() || committed == 0 {
        bail!("{committed} rows in pgbench_history, {} in the journal", promises.len());
    }
    let verdict = Verdict::of(&promises, &records);
    let received = step("waiting for the other database to receive the events", || {
        subscriber.received(verdict.published + verdict.duplicated)
    })?;
    let (fast, steady): (Vec<_>, Vec<_>) = promises.into_iter().partition(|promise| promise.seq <= last_fast);
    let (fast, steady) = (Verdict::of(&fast, &records), Verdict::of(&steady, &records));
    step("stopping PostgreSQL and Kafka", || {
        drop((client, subscriber, cluster, broker));
        Ok(())
    })?;
    Ok(Report { committed, rolled_back, left, verdict, received, fast: fast.into(), steady: steady.into() })
}

fn pending(client: &mut Client) -> Result<usize> {
    let count: i64 = client.query_one("SELECT count(*) FROM outbox.events", &[])?.get(0);
    Ok(usize::try_from(count)?)
}

fn drain(client: &mut Client) -> Result<()> {
    let result = wait::until_ok("outbox.events to be empty", DRAIN_DEADLINE, || {
        let count = pending(client)?;
        passing(&format!("{count} events wait"));
        Ok((count == 0).then_some(()))
    });
    passed();
    result
}

/// The committed events, with the time of each commit.
fn promises(client: &mut Client) -> Result<Vec<Promise>> {
    let rows = client.query(
        "SELECT seq, event_id, key, payload,
                extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8 * 1000
         FROM journal",
        &[],
    )?;
    let promise = |row: &postgres::Row| Promise {
        seq: row.get(0),
        event_id: row.get(1),
        key: row.get(2),
        payload: row.get(3),
        committed_ms: row.get(4),
    };
    Ok(rows.iter().map(promise).collect())
}

fn tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
