//! A second kind of worker beside the relay: both live in one database, and go the same ways.

use std::time::{Duration, Instant};

use event_outbox_lab::{Cluster, Result, StopMode, wait};
use postgres::Client;

/// The private tree with the test worker in it: see `scripts/build-failpoints`.
const TREE: &str = "failpoints";
const DEADLINE: Duration = Duration::from_secs(30);
/// What a command may take that sends idle workers away; Postgres gives up after five seconds.
const PROMPT: Duration = Duration::from_secs(4);

const KINDS: [&str; 2] = ["event_outbox relay", "event_outbox test worker"];

fn start(name: &str) -> Result<Cluster> {
    // No broker: workers begin and end without one.
    Cluster::options(name)
        .tree(TREE)
        .set("event_outbox.bootstrap_servers", "127.0.0.1:1")
        .set("event_outbox.test_worker", "on")
        .start()
}

/// The workers of a database, by kind.
fn workers(client: &mut Client, database: &str) -> Result<Vec<(String, i32)>> {
    let sql = "SELECT backend_type, pid FROM pg_stat_activity \
                WHERE datname = $1 AND backend_type LIKE 'event_outbox %' ORDER BY backend_type";
    Ok(client.query(sql, &[&database])?.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Waits for one worker of each kind, all of them other processes than `before`.
fn until_both(client: &mut Client, database: &str, before: &[(String, i32)]) -> Result<Vec<(String, i32)>> {
    wait::until_ok("a worker of each kind", DEADLINE, || {
        let found = workers(client, database)?;
        let kinds: Vec<_> = found.iter().map(|(kind, _)| kind.as_str()).collect();
        let is_new = found.iter().all(|(_, pid)| before.iter().all(|(_, other)| pid != other));
        Ok((kinds == KINDS && is_new).then_some(found))
    })
}

fn until_none(client: &mut Client, database: &str) -> Result<()> {
    wait::until_ok("the workers to leave", DEADLINE, || {
        Ok(workers(client, database)?.is_empty().then_some(()))
    })
}

/// Creates a database with the extension, and a function that greets its test worker.
fn create_database(server: &Cluster) -> Result<String> {
    let database = server.create_database()?;
    server.connect(&database)?.batch_execute(
        "CREATE EXTENSION event_outbox;
         CREATE FUNCTION greet() RETURNS void LANGUAGE c AS 'event_outbox', 'outbox_greet_test_worker'",
    )?;
    Ok(database)
}

fn until_greeted(client: &mut Client, database: &str, times: u32) -> Result<()> {
    let shown = format!("greeted {times} times");
    wait::until_ok(&format!("a worker that was {shown}"), DEADLINE, || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND application_name = $2";
        let count: i64 = client.query_one(sql, &[&database, &shown])?.get(0);
        Ok((count == 1).then_some(()))
    })
}

fn promptly(client: &mut Client, sql: &str) -> Result<()> {
    let begin = Instant::now();
    client.batch_execute(sql)?;
    let took = begin.elapsed();
    assert!(took < PROMPT, "{sql} took {took:?}");
    Ok(())
}

/// Waits until no session is in the database but its workers.
fn until_alone(client: &mut Client, database: &str) -> Result<()> {
    wait::until_ok("the sessions to leave", DEADLINE, || {
        let sql =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND backend_type = 'client backend'";
        let count: i64 = client.query_one(sql, &[&database])?.get(0);
        Ok((count == 0).then_some(()))
    })
}

#[test]
fn a_commit_wakes_each_kind_by_itself() -> Result<()> {
    let server = start("second_woken")?;
    let database = create_database(&server)?;
    let mut admin = server.connect("postgres")?;
    let before = until_both(&mut admin, &database, &[])?;
    let mut client = server.connect(&database)?;
    client.batch_execute("SELECT greet()")?;
    until_greeted(&mut admin, &database, 1)?;
    client.batch_execute("BEGIN; SELECT greet(), outbox.emit('second', '1'); COMMIT")?;
    until_greeted(&mut admin, &database, 2)?;
    wait::until_ok("an event in flight", DEADLINE, || {
        let in_flight: i64 = client.query_one("SELECT in_flight FROM outbox.status", &[])?.get(0);
        Ok((in_flight == 1).then_some(()))
    })?;
    // What rolls back greets nobody; the next that commits is the third.
    client.batch_execute("BEGIN; SELECT greet(); ROLLBACK; SELECT greet()")?;
    until_greeted(&mut admin, &database, 3)?;
    assert_eq!(workers(&mut admin, &database)?, before);
    Ok(())
}

#[test]
fn both_kinds_make_way_and_come_back() -> Result<()> {
    let server = start("second_away")?;
    let mut database = create_database(&server)?;
    let mut admin = server.connect("postgres")?;
    until_both(&mut admin, &database, &[])?;
    until_alone(&mut admin, &database)?;

    let before = workers(&mut admin, &database)?;
    let renamed = format!("{database}_renamed");
    promptly(&mut admin, &format!("ALTER DATABASE {database} RENAME TO {renamed}"))?;
    database = renamed;
    let before = until_both(&mut admin, &database, &before)?;

    // A command that fails calls them back, too.
    let mut session = server.connect(&database)?;
    admin.batch_execute(&format!("DROP DATABASE {database}")).expect_err("a session was in the database");
    let before = until_both(&mut admin, &database, &before)?;
    session.batch_execute("SELECT greet()")?;
    until_greeted(&mut admin, &database, 1)?;
    drop(session);
    until_alone(&mut admin, &database)?;

    // Changed settings restart both.
    admin.batch_execute(&format!("ALTER DATABASE {database} SET event_outbox.batch_size = 100"))?;
    until_both(&mut admin, &database, &before)?;
    until_alone(&mut admin, &database)?;

    promptly(&mut admin, &format!("DROP DATABASE {database}"))
}

#[test]
fn both_kinds_end_with_the_extension_and_are_found_after_a_restart() -> Result<()> {
    let mut server = start("second_found")?;
    let database = create_database(&server)?;
    let before = until_both(&mut server.connect("postgres")?, &database, &[])?;
    server.restart(StopMode::Immediate)?;
    let mut admin = server.connect("postgres")?;
    let before = until_both(&mut admin, &database, &before)?;

    let [(_, relay), (_, other)] = &before[..] else { panic!("not two workers: {before:?}") };
    admin.batch_execute(&format!("SELECT pg_terminate_backend({relay}), pg_terminate_backend({other})"))?;
    until_both(&mut admin, &database, &before)?;

    let mut client = server.connect(&database)?;
    client.batch_execute("DROP EXTENSION event_outbox")?;
    until_none(&mut admin, &database)?;
    client.batch_execute("CREATE EXTENSION event_outbox")?;
    until_both(&mut admin, &database, &[])?;
    Ok(())
}
