//! An event whose handler crashes the whole server is a dead letter in the end, and no other event suffers.

use std::thread;
use std::time::Duration;

use event_outbox_lab::{Broker, Cluster, Result, StopMode, inbox_log, wait};
use postgres::Client;

use crate::support::database::DEADLINE;
use crate::support::server::DedicatedServer;

/// Several crashes and restarts of the server.
const CRASHES: Duration = Duration::from_secs(180);

/// The number of events, of 10 keys, each in a lane of its own.
const EVENTS: i64 = 200;
/// The event that crashes the server.
const POISON: i64 = 57;

/// A server with a subscription `s` whose log is filled by hand, and `handle(e)`, which the poison crashes.
fn server() -> Result<(DedicatedServer, Client)> {
    let options = Cluster::options("poison").set("event_outbox.retry_backoff", "50ms");
    let dedicated = DedicatedServer::with(options, &Broker::shared()?.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    client.batch_execute(&inbox_log::subscription("key"))?;
    client.batch_execute(&format!(
        "INSERT INTO inbox.log_0 (source_id, lane, position, partition, \"offset\", produced_at, key, value)
         SELECT 1000, n % 10, n, 0, n, now(), convert_to('k' || n % 10, 'UTF8'), convert_to(n::text, 'UTF8')
           FROM generate_series(1, {EVENTS}) AS n;
         CREATE TABLE handled (at bigint GENERATED ALWAYS AS IDENTITY, key text, number bigint);
         CREATE FUNCTION handle(e inbox.event) RETURNS void LANGUAGE plpgsql AS $$
         BEGIN
             IF e.position = {POISON} THEN
                 COPY (SELECT 1) TO PROGRAM 'kill -9 $PPID';
                 PERFORM pg_sleep(60);
             END IF;
             PERFORM pg_sleep(0.002);
             INSERT INTO public.handled (key, number) VALUES (convert_from(e.key, 'UTF8'), e.position);
         END $$"
    ))?;
    Ok((dedicated, client))
}

/// Waits for a query of one number, through crashes.
fn until(dedicated: &DedicatedServer, sql: &str, expected: i64) -> Result<()> {
    let mut last = String::new();
    wait::until_ok(&format!("{sql} to be {expected}"), CRASHES, || {
        let found =
            dedicated.connect().and_then(|mut client| Ok(client.query_one(sql, &[])?.get::<_, i64>(0)));
        last = format!("{found:?}");
        Ok((found.ok() == Some(expected)).then_some(()))
    })
    .map_err(|error| error.context(last))
}

/// All events but the poison were handled, each once and in the order of its key, and the poison is dead.
fn assert_dead_alone(dedicated: &DedicatedServer) -> Result<()> {
    let mut client = dedicated.connect()?;
    let row = client.query_one(
        "SELECT count(*), count(DISTINCT number), count(*) FILTER (WHERE is_late)
           FROM (SELECT number, number < lag(number) OVER (PARTITION BY key ORDER BY at) AS is_late FROM handled) AS h",
        &[],
    )?;
    assert_eq!([row.get::<_, i64>(0), row.get(1), row.get(2)], [EVENTS - 1, EVENTS - 1, 0]);
    let dead = client.query("SELECT position, attempts, last_error FROM inbox.dead_letters", &[])?;
    assert_eq!(dead.len(), 1, "{dead:?}");
    assert_eq!((dead[0].get::<_, i64>(0), dead[0].get::<_, i32>(1)), (POISON, 3));
    let error: &str = dead[0].get(2);
    assert!(error.contains("crash"), "{error}");
    assert_eq!(client.query_one("SELECT count(*) FROM inbox.retry", &[])?.get::<_, i64>(0), 0);
    Ok(())
}

#[test]
fn an_event_that_crashes_the_server_of_its_handler_dies_alone() -> Result<()> {
    let (dedicated, mut client) = server()?;
    client.batch_execute("SELECT inbox.handle('s', 'handle(inbox.event)', workers => 3, batch => 10)")?;
    drop(client);
    until(&dedicated, "SELECT count(*) FROM handled", EVENTS - 1)?;
    until(&dedicated, "SELECT count(*) FROM inbox.dead_letters", 1)?;
    assert_dead_alone(&dedicated)
}

/// Sessions receive as soon as the server is up again, so one of them could be there before the worker.
#[test]
fn an_event_that_crashes_the_server_of_a_session_dies_alone() -> Result<()> {
    let (dedicated, client) = server()?;
    drop(client);
    let work = |dedicated: &DedicatedServer| {
        let handled = "SELECT (SELECT count(*) FROM handled) + (SELECT count(*) FROM inbox.dead_letters)";
        wait::until_ok("all to be handled or dead", CRASHES, || {
            let Ok(mut client) = dedicated.connect() else { return Ok(None) };
            loop {
                let done = client.query_one(handled, &[]).map(|row| row.get::<_, i64>(0));
                if done.as_ref().ok() == Some(&EVENTS) {
                    return Ok(Some(()));
                }
                if client.execute("SELECT handle(e) FROM inbox.receive('s', 20) AS e", &[]).is_err() {
                    return Ok(None);
                }
            }
        })
    };
    thread::scope(|scope| {
        let sessions: Vec<_> = (0..3).map(|_| scope.spawn(|| work(&dedicated))).collect();
        sessions
            .into_iter()
            .try_for_each(|session| session.join().map_err(|_| anyhow::anyhow!("a session panicked"))?)
    })?;
    assert_dead_alone(&dedicated)
}

/// What was being received is known though no process of the server has survived.
#[test]
fn an_attempt_counts_though_the_postmaster_dies_too() -> Result<()> {
    let (mut dedicated, mut client) = server()?;
    client.batch_execute(&format!("DELETE FROM inbox.log_0 WHERE position <> {POISON}"))?;
    for attempt in 1..=3 {
        let sql = "SELECT position, attempt FROM inbox.receive('s', 10)";
        let received = wait::until_ok("the event to be received", CRASHES, || {
            client.batch_execute("BEGIN")?;
            let received =
                client.query_opt(sql, &[])?.map(|row| (row.get::<_, i64>(0), row.get::<_, i32>(1)));
            if received.is_none() {
                client.batch_execute("ROLLBACK")?;
            }
            Ok(received)
        })?;
        assert_eq!(received, (POISON, attempt));
        dedicated.server.kill()?;
        dedicated.server.start()?;
        client = dedicated.connect()?;
    }
    until(&dedicated, "SELECT count(*) FROM inbox.dead_letters WHERE attempts = 3", 1)
}

/// A server that is stopped in the midst of it has not crashed.
#[test]
fn a_stop_in_order_is_no_crash() -> Result<()> {
    let (mut dedicated, mut client) = server()?;
    client.batch_execute(&format!("DELETE FROM inbox.log_0 WHERE position <> {POISON}"))?;
    client.batch_execute("BEGIN")?;
    assert_eq!(client.query("SELECT FROM inbox.receive('s', 10)", &[])?.len(), 1);
    dedicated.server.restart(StopMode::Fast)?;
    let mut client = dedicated.connect()?;
    let suspect = "SELECT (SELECT count(*) FROM inbox.lane WHERE suspect_upto > 0)
                          + (SELECT count(*) FROM inbox.retry WHERE is_suspect)";
    wait::until_ok("the event to be received", CRASHES, || {
        assert_eq!(client.query_one(suspect, &[])?.get::<_, i64>(0), 0);
        Ok((client.query("SELECT FROM inbox.receive('s', 10)", &[])?.len() == 1).then_some(()))
    })
}

/// A session that notices that the postmaster is gone ends in order, but nobody hears of it.
#[test]
fn an_attempt_counts_though_the_session_outlives_the_postmaster() -> Result<()> {
    let (mut dedicated, mut client) = server()?;
    client.batch_execute(&format!("DELETE FROM inbox.log_0 WHERE position <> {POISON}"))?;
    client.batch_execute("BEGIN")?;
    assert_eq!(client.query("SELECT FROM inbox.receive('s', 10)", &[])?.len(), 1);
    dedicated.server.kill_postmaster()?;
    // It does not start before the session has noticed and ended.
    wait::until("the server to start", DEADLINE, || dedicated.server.start().ok())?;
    until(&dedicated, "SELECT count(*) FROM inbox.retry WHERE attempts = 1 AND is_suspect", 1)
}
