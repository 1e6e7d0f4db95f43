//! `crash`: how many events arrive twice when PostgreSQL is killed, in a drain and at a steady rate.

use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use event_outbox_lab::progress::grouped;
use event_outbox_lab::wait;
use postgres::Client;

use super::Bench;
use crate::census::Census;
use crate::contender::ours::Ours;
use crate::events::Load;
use crate::figures::Rounds;
use crate::stage::{OURS, PARTITIONS, Stage, Wal};

/// How often the server is killed, in each of the two.
const CRASHES: usize = 20;

/// The events of one drain.
const BACKLOG: u64 = 100_000;

/// The steady rate, and for how long it lasts before the crash.
const RATE: u64 = 2_000;
const STEADY: Duration = Duration::from_millis(1_500);

const DEADLINE: Duration = Duration::from_secs(120);

const EMPTY: &str = "SELECT NOT EXISTS (SELECT FROM outbox.events)";
const STORED: &str = "SELECT last_value FROM outbox.events_id_seq";

/// Kills the server again and again, and counts the records.
pub fn run(bench: &mut Bench) -> Result<()> {
    bench.stage.restart(Wal::Replica)?;
    let crashes = bench.rounds(CRASHES);
    let mut found = Rounds::default();
    for crash in 0..crashes {
        // At a tenth, two tenths and so on of the backlog.
        let share = 0.1 + 0.8 * crash as f64 / crashes.max(2) as f64;
        in_drain(&mut bench.stage, crash, share, &mut found)?;
        at_rate(&mut bench.stage, crash, &mut found)?;
    }
    let most = bench
        .stage
        .connect(OURS)?
        .query_one("SELECT current_setting('event_outbox.max_in_flight')::int4", &[])?;
    let most = f64::from(most.get::<_, i32>(0));
    bench.figures.summarise_rounds(&found);
    let worst = bench.figures.get("crash.drain.duplicates.max").unwrap_or(f64::NAN);
    bench.figures.set("crash.drain.of_bound", worst / most);
    Ok(())
}

/// Kills the server when this share of a backlog has arrived.
fn in_drain(stage: &mut Stage, crash: usize, share: f64, found: &mut Rounds) -> Result<()> {
    let load = Load::new(&format!("crash-drain-{crash}"), BACKLOG);
    let watch = stage.topic(&load.topic)?;
    let mut client = stage.connect(OURS)?;
    Ours::insert(&mut client, &load)?;
    stage.checkpoint()?;
    stage.configure("event_outbox.enabled", "on")?;
    let enough = (BACKLOG as f64 * share) as u64;
    wait::until_ok("a part of the backlog to arrive", DEADLINE, || {
        Ok((watch.records()? >= enough).then_some(()))
    })?;
    let in_flight = in_flight(&mut client)?;
    stage.crash()?;
    until_empty(stage)?;
    let duplicates = count(stage, &load, watch.records()?)?;
    announce("drain", crash, duplicates, in_flight);
    found.add("crash.drain.duplicates", duplicates as f64);
    found.add("crash.drain.in_flight", in_flight as f64);
    Ok(())
}

/// Kills the server while sessions commit at a steady rate.
fn at_rate(stage: &mut Stage, crash: usize, found: &mut Rounds) -> Result<()> {
    let topic = format!("crash-steady-{crash}");
    let watch = stage.topic(&topic)?;
    stage.configure("event_outbox.enabled", "on")?;
    let mut looking = stage.connect(OURS)?;
    let before: i64 = looking.query_one(STORED, &[])?.get(0);
    let client = stage.connect(OURS)?;
    let (written, in_flight) = scope(|threads| {
        let writer = threads.spawn(|| write(client, &topic));
        sleep(STEADY);
        let in_flight = in_flight(&mut looking);
        let crashed = stage.crash();
        let written = writer.join().unwrap_or(0);
        crashed.and(in_flight).map(|in_flight| (written, in_flight))
    })?;
    until_empty(stage)?;
    // The last statement may have committed although nobody heard of it.
    let stored: i64 = stage.connect(OURS)?.query_one(STORED, &[])?.get(0);
    ensure!(stored >= before, "the sequence went back");
    let records = watch.records()?;
    let load = Load::new(&topic, written + 1);
    let census = Census::take(&stage.bootstrap_servers(), &load, PARTITIONS, records)?;
    ensure!(census.distinct >= written && census.wrong == 0, "{census:?} of {written}");
    stage.remove_topic(&topic)?;
    let duplicates = records - census.distinct;
    announce("steady", crash, duplicates, in_flight);
    found.add("crash.steady.duplicates", duplicates as f64);
    found.add("crash.steady.in_flight", in_flight as f64);
    Ok(())
}

/// Commits one event at a time until the server is gone. Returns the number of the last one that was committed.
fn write(mut client: Client, topic: &str) -> u64 {
    let begin = Instant::now();
    for n in 1_i64.. {
        crate::pace::sleep_until(begin, Duration::from_secs_f64(n as f64 / RATE as f64));
        let sql = "INSERT INTO outbox.events (event_id, topic, key, payload, headers, content_type)
                   SELECT made_id($2)::uuid, $1, convert_to(made_key($2), 'UTF8'),
                          convert_to(made_payload($2), 'UTF8'), made_headers($2)::json, 'application/json'";
        if client.execute(sql, &[&topic, &n]).is_err() {
            return n.unsigned_abs() - 1;
        }
    }
    0
}

fn in_flight(client: &mut Client) -> Result<i64> {
    Ok(client.query_one("SELECT in_flight FROM outbox.status", &[])?.get(0))
}

/// Waits until the relay has published and deleted everything, and switches it off.
fn until_empty(stage: &Stage) -> Result<()> {
    let mut client = stage.connect(OURS)?;
    wait::until_ok("outbox.events to be empty", DEADLINE, || {
        Ok(client.query_one(EMPTY, &[])?.get::<_, bool>(0).then_some(()))
    })?;
    stage.configure("event_outbox.enabled", "off")?;
    Ok(client.batch_execute("TRUNCATE outbox.events")?)
}

/// Counts the records beyond one for each event of the load, and removes the topic.
fn count(stage: &Stage, load: &Load, records: u64) -> Result<u64> {
    let census = Census::take(&stage.bootstrap_servers(), load, PARTITIONS, records)?;
    ensure!(census.distinct == load.count() && census.wrong == 0, "{census:?} of {}", load.count());
    stage.remove_topic(&load.topic)?;
    Ok(records - census.distinct)
}

fn announce(what: &str, crash: usize, duplicates: u64, in_flight: i64) {
    let (twice, flying) = (grouped(duplicates as usize), grouped(in_flight.unsigned_abs() as usize));
    eprintln!("    crash {crash:<3} {what:<8} {twice:>8} duplicates, {flying:>8} events were in flight");
}
