//! `store`: the event store beside message-db, whose writers of a category wait for each other.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use event_outbox_lab::layout;
use postgres::Client;

use super::Bench;
use crate::events;
use crate::figures::Rounds;
use crate::pgbench::Ran;
use crate::stage::{OURS, PEERS, Stage, Wal};

/// Short slices in turn, so that a disturbance affects both.
const ROUNDS: usize = 5;
const SLICE_S: u64 = 3;
const CLIENTS: usize = 8;

/// Whether each client has a stream of its own, or all have one. All streams are of one category.
const STREAMS: [&str; 2] = ["distinct", "one"];

/// What cannot be had for less: an INSERT of a row with the columns and indexes of an event.
const LIMIT: &str = "insert";

/// How many events are read at once.
const READ: i64 = 1_000_000;

/// The length of the stream that is reduced, and how many of its events come after the snapshot.
const REDUCED: i64 = 10_000;
const AFTER_SNAPSHOT: i64 = 100;

/// The files of message-db that make its tables and functions, in the order of its own installation.
const MESSAGE_DB: [&str; 19] = [
    "schema/message-store.sql",
    "extensions/pgcrypto.sql",
    "tables/messages.sql",
    "types/message.sql",
    "functions/message-store-version.sql",
    "functions/hash-64.sql",
    "functions/acquire-lock.sql",
    "functions/category.sql",
    "functions/is-category.sql",
    "functions/id.sql",
    "functions/cardinal-id.sql",
    "functions/stream-version.sql",
    "functions/write-message.sql",
    "functions/get-stream-messages.sql",
    "functions/get-category-messages.sql",
    "functions/get-last-stream-message.sql",
    "indexes/messages-id.sql",
    "indexes/messages-stream.sql",
    "indexes/messages-category.sql",
];

/// Measures appends, then reads.
pub fn run(bench: &mut Bench) -> Result<()> {
    bench.stage.restart(Wal::Replica)?;
    let measured = appends(bench).context("appends")?;
    bench.figures.summarise_rounds(&measured);
    let mut client = bench.stage.connect(OURS)?;
    read(bench, &mut client).context("reads")?;
    let measured = reduce(bench, &mut client).context("aggregates")?;
    bench.figures.summarise_rounds(&measured);
    Ok(client.batch_execute(
        "TRUNCATE event_store.event, event_store.stream, event_store.snapshot; DROP TABLE plain_event",
    )?)
}

fn appends(bench: &Bench) -> Result<Rounds> {
    let (stage, seconds) = (&bench.stage, bench.size(SLICE_S, 1));
    stage.connect(OURS)?.batch_execute(include_str!("../../store/limit.sql"))?;
    let mut contenders = vec![("ours", OURS), (LIMIT, OURS)];
    match std::env::var_os("EVENT_OUTBOX_MESSAGE_DB") {
        Some(package) => {
            install(stage, &PathBuf::from(package)).context("message-db")?;
            contenders.push(("message_db", PEERS));
        }
        None => eprintln!("    message-db is not there and is left out"),
    }
    let mut measured = Rounds::default();
    let mut appended: BTreeMap<&str, u64> = BTreeMap::new();
    for round in 0..=bench.rounds(ROUNDS) {
        stage.checkpoint()?;
        for streams in STREAMS {
            let mut rates = BTreeMap::new();
            for (name, database) in
                contenders.iter().filter(|(name, _)| *name != LIMIT || streams == STREAMS[0])
            {
                let ran = slice(stage, database, &format!("{name}_{streams}"), seconds)?;
                if *name != LIMIT {
                    *appended.entry(*database).or_default() += ran.transactions;
                }
                rates.insert(*name, ran.tps);
                if round > 0 {
                    measured.add(format!("store.{streams}.{name}_tps"), ran.tps);
                }
            }
            let line: String = rates.iter().map(|(name, tps)| format!("  {name} {tps:>6.0}")).collect();
            eprintln!("    {:<8} {streams:<8} {line}", super::round(round));
        }
        contenders.reverse();
    }
    for (database, count) in appended {
        check(stage, database, count).with_context(|| format!("the streams in {database}"))?;
    }
    measured.ratio(
        "store.distinct.ratio_insert",
        "store.distinct.ours_tps",
        &format!("store.distinct.{LIMIT}_tps"),
    );
    if contenders.iter().any(|(name, _)| *name == "message_db") {
        for streams in STREAMS {
            let tps = |name| format!("store.{streams}.{name}_tps");
            measured.ratio(format!("store.{streams}.ratio_message_db"), &tps("ours"), &tps("message_db"));
        }
    }
    Ok(measured)
}

/// Appends for a while. Each transaction appends one event, whose JSON is one parameter of a prepared statement.
fn slice(stage: &Stage, database: &str, script: &str, seconds: u64) -> Result<Ran> {
    let mut pgbench = stage.server().client_program("pgbench", database);
    pgbench.env("PGOPTIONS", "-c search_path=message_store,public");
    pgbench.args(["-n", "-M", "prepared", "-T", &seconds.to_string(), "-c", &CLIENTS.to_string(), "-j", "2"]);
    let payload = events::payload(1, events::PAYLOAD_BYTES);
    pgbench.args(["-D", &format!("event={{\"type\":\"added\",\"data\":{payload}}}")]);
    pgbench.args(["-D", &format!("payload={payload}")]);
    pgbench.arg("-f").arg(layout::repository().join(format!("bench/store/{script}.sql")));
    Ran::of(&mut pgbench).with_context(|| script.to_owned())
}

/// Every transaction has left its event, and the versions of each stream have no gap.
fn check(stage: &Stage, database: &str, appended: u64) -> Result<()> {
    let streams = match database {
        // The versions of message-db begin with 0.
        PEERS => {
            "SELECT count(*) AS events, max(position) + 1 AS version FROM message_store.messages GROUP BY stream_name"
        }
        _ => "SELECT count(*) AS events, max(version) AS version FROM event_store.event GROUP BY stream_id",
    };
    let sql = format!("SELECT sum(s.events)::bigint, bool_and(s.events = s.version) FROM ({streams}) AS s");
    let row = stage.connect(database)?.query_one(&sql, &[])?;
    let (events, is_dense): (i64, bool) = (row.get(0), row.get(1));
    ensure!(events == i64::try_from(appended)?, "there are {events} events of {appended} transactions");
    ensure!(is_dense, "versions of a stream have gaps");
    Ok(())
}

/// Installs message-db into the database of the peers.
fn install(stage: &Stage, package: &Path) -> Result<()> {
    let mut client = stage.connect(PEERS)?;
    client.batch_execute("DROP SCHEMA IF EXISTS message_store CASCADE; SET client_min_messages = warning")?;
    for file in MESSAGE_DB {
        let sql = fs::read_to_string(package.join("database").join(file)).with_context(|| file.to_owned())?;
        client.batch_execute("SET search_path = message_store, public")?;
        // The indexes are built without blocking writers, which cannot be in a transaction, nor need be.
        client.batch_execute(&sql.replace("CONCURRENTLY", "")).with_context(|| file.to_owned())?;
    }
    Ok(())
}

/// Reads all events of a category with one call.
fn read(bench: &mut Bench, client: &mut Client) -> Result<()> {
    let wanted = bench.size(READ, 20_000);
    let fill = "SELECT event_store.append('read-' || $1::bigint, 'any',
                    (SELECT jsonb_agg(jsonb_build_object('type', 'added', 'data', jsonb_build_object('n', n, 'note', 'as agreed')))
                       FROM generate_series(1, 10000) AS n))";
    let began = Instant::now();
    for call in 0..wanted / 10_000 {
        client.execute(fill, &[&(call % 10)])?;
    }
    bench.figures.set("store.fill_per_s", wanted as f64 / began.elapsed().as_secs_f64());
    client.batch_execute("VACUUM ANALYZE event_store.event")?;
    let began = Instant::now();
    let sql = "SELECT count(data) FROM event_store.read_category('read', \"limit\" => NULL)";
    let seen: i64 = client.query_one(sql, &[])?.get(0);
    ensure!(seen == wanted, "{seen} events were read");
    bench.figures.set("store.read_per_s", wanted as f64 / began.elapsed().as_secs_f64());
    Ok(())
}

/// Reduces a stream, with a snapshot near its end and without.
fn reduce(bench: &Bench, client: &mut Client) -> Result<Rounds> {
    client.batch_execute(
        "CREATE OR REPLACE FUNCTION add_up(state jsonb, event event_store.recorded_event) RETURNS jsonb LANGUAGE plpgsql AS $$
         BEGIN
             RETURN jsonb_build_object('sum', coalesce((state ->> 'sum')::bigint, 0) + (event.data ->> 'n')::bigint);
         END $$",
    )?;
    client.execute(
        "SELECT event_store.append('reduce-1', 'any', (SELECT jsonb_agg(jsonb_build_object('type', 'added', 'data', jsonb_build_object('n', n)))
                                                        FROM generate_series(1, $1::bigint) AS n))",
        &[&REDUCED],
    )?;
    let upto = REDUCED - AFTER_SNAPSHOT;
    client.execute(
        "SELECT event_store.save_snapshot('reduce-1', $1, jsonb_build_object('sum', $2::bigint))",
        &[&upto, &(upto * (upto + 1) / 2)],
    )?;
    let mut measured = Rounds::default();
    for round in 0..=bench.rounds(ROUNDS) {
        for (name, reducer_version) in [("plain", None), ("snapshot", Some(1))] {
            let began = Instant::now();
            let row = client.query_one(
                "SELECT (state ->> 'sum')::bigint
                   FROM event_store.aggregate('reduce-1', 'add_up(jsonb, event_store.recorded_event)', '{}', $1)",
                &[&reducer_version],
            )?;
            let took = began.elapsed();
            ensure!(row.get::<_, i64>(0) == REDUCED * (REDUCED + 1) / 2, "{name}: a wrong sum");
            if round > 0 {
                measured.add(format!("store.aggregate.{name}_ms"), took.as_secs_f64() * 1e3);
            }
        }
    }
    measured.ratio(
        "store.aggregate.ratio_snapshot",
        "store.aggregate.plain_ms",
        "store.aggregate.snapshot_ms",
    );
    Ok(measured)
}
