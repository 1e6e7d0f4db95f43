//! pg_upgrade carries the whole outbox to a newer major version of PostgreSQL, and nothing is published meanwhile.
//!
//! `scripts/pg-upgrade` runs the test where two versions are installed.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use event_outbox_lab::postgres::ClusterOptions;
use event_outbox_lab::process::Fate;
use event_outbox_lab::scratch::Scratch;
use event_outbox_lab::{Broker, Cluster, Consumer, Result, StopMode, run_as, wait};
use postgres::Client;

const DEADLINE: Duration = Duration::from_secs(30);
const TOPIC: &str = "upgraded";
const PENDING: usize = 100;

/// The contents of the outbox, which must not change.
const CONTENT: [&str; 4] = [
    "SELECT d::text FROM outbox.dead_letters AS d ORDER BY dead_letter_id",
    "SELECT i::text FROM outbox.intake AS i ORDER BY source_id",
    "SELECT last_value::text FROM outbox.dead_letters_dead_letter_id_seq",
    "SELECT last_value::text FROM outbox.events_id_seq",
];

/// The privileges of other roles in the schema, and the settings of the database.
const CIRCUMSTANCES: [&str; 3] = [
    "SELECT oid::regprocedure || ' ' || grantee::regrole
       FROM pg_proc, aclexplode(coalesce(proacl, acldefault('f', proowner)))
      WHERE pronamespace = 'outbox'::regnamespace AND grantee <> proowner ORDER BY 1",
    "SELECT nspname || ' ' || grantee::regrole || ' ' || privilege_type
       FROM pg_namespace, aclexplode(nspacl) WHERE nspname = 'outbox' AND grantee <> nspowner ORDER BY 1",
    "SELECT unnest(setconfig) FROM pg_db_role_setting AS s JOIN pg_database AS d ON d.oid = setdatabase
      WHERE datname = current_database() ORDER BY 1",
];

fn texts(client: &mut Client, queries: &[&str]) -> Result<Vec<Vec<String>>> {
    let mut found = Vec::new();
    for sql in queries {
        found.push(client.query(*sql, &[])?.iter().map(|row| row.get(0)).collect());
    }
    Ok(found)
}

fn options(name: &str) -> Result<ClusterOptions> {
    Ok(Cluster::options(name).set("event_outbox.bootstrap_servers", Broker::shared()?.bootstrap_servers()))
}

/// Pending events, one refused once, a dead letter, a message taken in, privileges and settings.
fn fill(client: &mut Client, database: &str) -> Result<()> {
    client.batch_execute(&format!(
        "CREATE EXTENSION event_outbox;
         ALTER DATABASE {database} SET event_outbox.source = '/before';
         CREATE ROLE shop;
         GRANT USAGE ON SCHEMA outbox TO shop;
         GRANT EXECUTE ON FUNCTION outbox.emit(text, jsonb, text, text, jsonb, uuid, integer) TO shop;
         SELECT outbox.emit('{TOPIC}', to_jsonb(n), key => (n % 7)::text) FROM generate_series(1, {PENDING}) AS n;
         SELECT outbox.emit('{TOPIC}', '\"dead\"', key => 'dead');
         SELECT outbox.try_emit('message-1', '{TOPIC}', '\"taken in\"', key => 'in');
         UPDATE outbox.events SET last_error = 'no' WHERE key = 'in' OR key = 'dead';
         UPDATE outbox.events SET last_error = 'no' WHERE key = 'dead';
         UPDATE outbox.events SET last_error = 'no' WHERE key = 'dead'"
    ))?;
    // PostgreSQL of November 2026 (15.20) records a version with each column of a table. The programs of older minor
    // releases carry it over unchanged, and their servers refuse it.
    client.batch_execute(
        "SET allow_system_table_mods = on;
         UPDATE pg_attribute SET attoptions = NULL WHERE attoptions::text LIKE '{pg_attver=%}'",
    )?;
    // The sequence is ahead of the rows.
    Ok(client.batch_execute(&format!("BEGIN; SELECT outbox.emit('{TOPIC}', '0'); ROLLBACK"))?)
}

/// Runs a program of the newer version as the servers' user, in a directory of its own.
fn run(program: &Path, work: &Path, arguments: &[&Path]) -> Result<()> {
    let mut command = run_as::server_command(program)?;
    let output = command.args(arguments).current_dir(work).output()?;
    let said =
        [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    ensure!(output.status.success(), "{command:?}: {said}");
    Ok(())
}

fn upgrade(old: &Cluster, new: &Cluster) -> Result<()> {
    let work = Scratch::new("pg_upgrade", Fate::DiesWithUs)?;
    let sockets = Scratch::for_sockets(Fate::DiesWithUs)?;
    let (old_data, new_data) = (old.data_dir(), new.data_dir());
    let (old_port, new_port) = (old.port().to_string(), new.port().to_string());
    // From 18 on a new cluster has checksums; both clusters must agree.
    let checksums = new.bin_dir().join("pg_checksums");
    let have_checksums = run(&checksums, work.path(), &[Path::new("--check"), &new_data]).is_ok();
    if have_checksums {
        run(&checksums, work.path(), &[Path::new("--disable"), &new_data])?;
    }
    let arguments: [(&str, &Path); 8] = [
        ("--old-bindir", old.bin_dir()),
        ("--new-bindir", new.bin_dir()),
        ("--old-datadir", &old_data),
        ("--new-datadir", &new_data),
        ("--old-port", Path::new(&old_port)),
        ("--new-port", Path::new(&new_port)),
        ("--socketdir", sockets.path()),
        ("--username", Path::new("postgres")),
    ];
    let arguments: Vec<&Path> =
        arguments.iter().flat_map(|(option, value)| [Path::new(*option), *value]).collect();
    run(&new.bin_dir().join("pg_upgrade"), work.path(), &arguments)
        .map_err(|error| error.context(complaints(&new_data.join("pg_upgrade_output.d"))))
}

/// The errors in the logs that pg_upgrade leaves when it fails.
fn complaints(directory: &Path) -> String {
    let mut found = String::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found += &complaints(&path);
        } else if let Ok(log) = fs::read_to_string(&path) {
            let is_complaint =
                |line: &&str| ["ERROR", "FATAL", "error:"].iter().any(|word| line.contains(word));
            log.lines()
                .filter(is_complaint)
                .for_each(|line| found += &format!("{}: {line}\n", path.display()));
        }
    }
    found
}

fn arrived() -> Result<Vec<String>> {
    let records = Consumer::read_all(&Broker::shared()?.bootstrap_servers(), &[TOPIC])?;
    Ok(records.iter().map(|record| record.value_text().unwrap_or("(no text)").to_string()).collect())
}

#[test]
fn a_cluster_that_is_upgraded_publishes_what_waited() -> Result<()> {
    Broker::shared()?.create_topic(TOPIC, 1, &[])?;
    let mut old = options("old")?.set("event_outbox.enabled", "off").start()?;
    let database = old.create_database()?;
    let mut client = old.connect(&database)?;
    fill(&mut client, &database)?;
    let content = texts(&mut client, &CONTENT)?;
    let circumstances = texts(&mut client, &CIRCUMSTANCES)?;
    assert!(
        circumstances.iter().chain(&content).all(|found| !found.is_empty()),
        "{content:?} {circumstances:?}"
    );
    let highest: i64 = client.query_one("SELECT last_value FROM outbox.events_id_seq", &[])?.get(0);
    drop(client);
    old.stop(StopMode::Fast)?;
    // A relay that ran during pg_upgrade would publish.
    old.unset("event_outbox.enabled")?;

    let mut new = options("new")?.newer().create()?;
    upgrade(&old, &new)?;
    assert_eq!(arrived()?, [""; 0], "published while pg_upgrade worked");

    new.set("event_outbox.enabled", "off")?;
    new.start()?;
    let mut client = new.connect(&database)?;
    assert_eq!(texts(&mut client, &CONTENT)?, content);
    assert_eq!(texts(&mut client, &CIRCUMSTANCES)?, circumstances);
    let emit = format!("SELECT outbox.emit('{TOPIC}', '\"last\"', key => '1')");
    client.batch_execute(&format!(
        "SET ROLE shop; {emit}; RESET ROLE; SELECT outbox.redrive(topic => '{TOPIC}')"
    ))?;
    let lowest: i64 = client
        .query_one("SELECT min(id) FROM outbox.events WHERE payload IN ('\"last\"', '\"dead\"')", &[])?
        .get(0);
    assert!(lowest > highest, "the sequence fell back from {highest} to {lowest}");
    new.unset("event_outbox.enabled")?;
    new.reload()?;
    wait::until_ok("outbox.events to be empty", DEADLINE, || {
        Ok(client.query_opt("SELECT WHERE NOT EXISTS (SELECT FROM outbox.events)", &[])?)
    })?;

    let arrived = arrived()?;
    let numbers: Vec<usize> = arrived.iter().filter_map(|value| value.parse().ok()).collect();
    // All events are in one partition, and none was refused.
    assert_eq!(numbers, (1..=PENDING).collect::<Vec<_>>());
    let mut others: Vec<_> = arrived.iter().filter(|value| value.starts_with('"')).collect();
    others.sort();
    assert_eq!(others, ["\"dead\"", "\"last\"", "\"taken in\""]);
    let records = Consumer::read_all(&Broker::shared()?.bootstrap_servers(), &[TOPIC])?;
    assert!(records.iter().all(|record| record.header("ce_source") == Some("/before")));
    Ok(())
}
