//! Workers of the inbox and their handlers when there are fewer processes than they need.

use std::time::Duration;

use event_outbox_lab::{Broker, Cluster, Producer, Result, wait};
use postgres::Client;

use crate::support::inbox::until_consumer;
use crate::support::subscriptions::subscribe;

/// Five seconds for each turn, and as many turns as databases, with room for a slow machine.
const TURNS: Duration = Duration::from_secs(90);

/// A server with so many processes for workers of databases: one more is Postgres' own, and one the launcher's.
fn server(name: &str, processes: i32) -> Result<Cluster> {
    Cluster::options(name)
        .set("event_outbox.bootstrap_servers", Broker::shared()?.bootstrap_servers())
        .set("max_worker_processes", processes + 2)
        .start()
}

fn number(client: &mut Client, sql: &str) -> Result<i64> {
    Ok(client.query_one(sql, &[])?.get(0))
}

fn until(client: &mut Client, sql: &str, expected: i64) -> Result<()> {
    wait::until_ok(&format!("{sql} to be {expected}"), TURNS, || {
        Ok((number(client, sql)? == expected).then_some(()))
    })
}

/// A handler that writes what it was given, after this many seconds.
fn handler(name: &str, subscription: &str, seconds: f64) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS handled (subscription text, number int, attempt int);
         CREATE FUNCTION {name}(e inbox.event) RETURNS void LANGUAGE plpgsql AS $$
             BEGIN
                 PERFORM pg_catalog.pg_sleep({seconds});
                 INSERT INTO public.handled VALUES ('{subscription}', e.data::int, e.attempt);
             END $$;
         SELECT inbox.handle('{subscription}', '{name}(inbox.event)', batch => 5)"
    )
}

fn send(topic: &str, numbers: std::ops::Range<i64>) -> Result<()> {
    Producer::new(&Broker::shared()?.bootstrap_servers())?
        .send_numbers(topic, 0, numbers, |number| Some(number.to_string()))
}

/// Waits until each number was handled; none may have been handled twice, or be counted as failed.
fn until_handled(client: &mut Client, subscription: &str, count: i64) -> Result<()> {
    wait::until_ok(&format!("{count} events of {subscription} to be handled"), TURNS, || {
        let sql = "SELECT count(*) FROM handled WHERE subscription = $1";
        Ok((client.query_one(sql, &[&subscription])?.get::<_, i64>(0) >= count).then_some(()))
    })?;
    let sql = "SELECT count(*), count(DISTINCT number), max(attempt) FROM handled WHERE subscription = $1";
    let row = client.query_one(sql, &[&subscription])?;
    let found: (i64, i64, i32) = (row.get(0), row.get(1), row.get(2));
    assert_eq!(found, (count, count, 1), "{subscription}");
    assert_eq!(number(client, "SELECT count(*) FROM inbox.dead_letters")?, 0);
    Ok(())
}

/// Each database needs two processes for its subscription, and one for its relay now and then; there are three for four of
/// them. So a worker must not keep the process that another's handler needs.
#[test]
fn databases_with_handlers_take_turns() -> Result<()> {
    const DATABASES: usize = 4;
    let server = server("inboxturns", 3)?;
    let databases: Vec<_> = (0..DATABASES).map(|_| server.create_database()).collect::<Result<_>>()?;
    let mut clients: Vec<_> =
        databases.iter().map(|database| server.connect(database)).collect::<Result<_>>()?;
    let topics: Vec<String> = databases.iter().map(|database| format!("inboxturns.{database}")).collect();
    for (client, topic) in clients.iter_mut().zip(&topics) {
        Broker::shared()?.create_topic(topic, 1, &[])?;
        client.batch_execute("CREATE EXTENSION event_outbox")?;
        subscribe(client, "s", &[topic], "earliest")?;
        // An event takes longer than a fifth of a turn, so batches are under way when a turn ends.
        client.batch_execute(&handler("handle", "s", 0.5))?;
    }
    let mut seen_queued = false;
    for round in 0..2_i64 {
        for topic in &topics {
            send(topic, round * 8..(round + 1) * 8)?;
        }
        let sql = "SELECT count(*) FROM inbox.consumers WHERE state = 'queued' AND pid IS NULL AND state_since <= clock_timestamp()";
        wait::until_ok("a worker that waits for a process", TURNS, || {
            Ok((number(&mut clients[0], sql)? > 0).then(|| seen_queued = true))
        })?;
        for client in &mut clients {
            until_handled(client, "s", (round + 1) * 8)?;
        }
    }
    assert!(seen_queued);
    Ok(())
}

/// One database has more handlers than processes.
#[test]
fn handlers_of_a_database_take_turns() -> Result<()> {
    let server = server("handlerturns", 2)?;
    let database = server.create_database()?;
    let mut client = server.connect(&database)?;
    client.batch_execute("CREATE EXTENSION event_outbox")?;
    for name in ["a", "b", "c"] {
        let topic = format!("handlerturns.{name}.{database}");
        Broker::shared()?.create_topic(&topic, 1, &[])?;
        subscribe(&mut client, name, &[&topic], "earliest")?;
        client.batch_execute(&handler(&format!("handle_{name}"), name, 0.1))?;
        send(&topic, 0..8)?;
    }
    for name in ["a", "b", "c"] {
        until_handled(&mut client, name, 8)?;
    }
    Ok(())
}

/// Without any process for a handler, the status says so, and so does the log, once.
#[test]
fn a_handler_for_which_no_process_is_left_is_named() -> Result<()> {
    let server = server("nohandler", 1)?;
    let database = server.create_database()?;
    let mut client = server.connect(&database)?;
    client.batch_execute("CREATE EXTENSION event_outbox")?;
    let topic = format!("nohandler.{database}");
    Broker::shared()?.create_topic(&topic, 1, &[])?;
    subscribe(&mut client, "s", &[&topic], "earliest")?;
    client.batch_execute(&handler("handle", "s", 0.0))?;
    send(&topic, 0..3)?;
    let said =
        "no background worker is left for the handler of subscription \"s\": raise max_worker_processes";
    wait::until_ok("the status to say so", TURNS, || {
        let sql = "SELECT last_error FROM inbox.consumers WHERE database = current_database()";
        let error: Option<String> = client.query_one(sql, &[])?.get(0);
        Ok((error.as_deref() == Some(said)).then_some(()))
    })?;
    assert!(server.log().contains(said));
    // What it is to handle is stored.
    until_consumer(&mut client, "idle")?;
    assert_eq!(number(&mut client, "SELECT count(*) FROM inbox.log")?, 3);
    client.batch_execute("SELECT inbox.unhandle('s')")?;
    let is_over = "SELECT count(*) FROM inbox.consumers WHERE database = current_database() AND recovered_at IS NOT NULL";
    until(&mut client, is_over, 1)
}

/// A process that is to make way, or is not wanted any more, finishes its batch, and nothing counts as failed.
#[test]
fn a_handler_that_is_ended_finishes_its_batch() -> Result<()> {
    let server = server("finishes", 6)?;
    let database = server.create_database()?;
    let mut client = server.connect(&database)?;
    client.batch_execute("CREATE EXTENSION event_outbox")?;
    let topic = format!("finishes.{database}");
    Broker::shared()?.create_topic(&topic, 1, &[])?;
    subscribe(&mut client, "s", &[&topic], "earliest")?;
    // It waits for the lock of the test.
    client.batch_execute("CREATE TABLE gate ()")?;
    let mut holder = server.connect(&database)?;
    holder.batch_execute("BEGIN; LOCK TABLE gate")?;
    client.batch_execute(
        &handler("handle", "s", 0.0).replace("PERFORM", "PERFORM FROM public.gate; PERFORM"),
    )?;
    let ends = ["SELECT inbox.unhandle('s')", "SELECT inbox.pause('s', 'a test')"];
    for (end, first) in ends.into_iter().zip([0, 2]) {
        send(&topic, first..first + 1)?;
        let waits =
            "SELECT count(*) FROM pg_stat_activity AS a JOIN pg_locks AS l ON l.pid = a.pid AND NOT l.granted
                      WHERE a.backend_type = 'event_outbox handler'";
        until(&mut client, waits, 1)?;
        client.batch_execute(end)?;
        // When the worker has stored this one, it has read that, and has asked the handler to end.
        send(&topic, first + 1..first + 2)?;
        until(&mut client, "SELECT count(*) FROM inbox.log", first + 2)?;
        assert_eq!(number(&mut client, waits)?, 1, "{end}");
        holder.batch_execute("COMMIT")?;
        until(
            &mut client,
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'event_outbox handler'",
            0,
        )?;
        assert_eq!(number(&mut client, "SELECT count(*) FROM handled")?, first + 1, "{end}");
        holder.batch_execute("BEGIN; LOCK TABLE gate")?;
        client.batch_execute("SELECT inbox.handle('s', 'handle(inbox.event)', batch => 1)")?;
        holder.batch_execute("COMMIT")?;
        if end.contains("pause") {
            client.batch_execute("SELECT inbox.resume('s')")?;
        }
        until_handled(&mut client, "s", first + 2)?;
        holder.batch_execute("BEGIN; LOCK TABLE gate")?;
    }
    Ok(())
}

/// A worker that makes way lets its handlers finish their batches, however long these take. A command that needs the database
/// ends them.
#[test]
fn a_database_can_be_dropped_though_its_worker_left_a_handler_at_work() -> Result<()> {
    let server = server("inboxleft", 2)?;
    let (left, other) = (server.create_database()?, server.create_database()?);
    let topic = format!("inboxleft.{left}");
    Broker::shared()?.create_topic(&topic, 1, &[])?;
    let mut client = server.connect(&left)?;
    client.batch_execute("CREATE EXTENSION event_outbox")?;
    subscribe(&mut client, "s", &[&topic], "earliest")?;
    client.batch_execute(&handler("handle", "s", 600.0))?;
    send(&topic, 0..1)?;
    let asleep = "SELECT count(*) FROM pg_stat_activity
                   WHERE backend_type = 'event_outbox handler' AND wait_event = 'PgSleep'";
    until(&mut client, asleep, 1)?;
    drop(client);
    // Its relay needs a process now, and a worker that has nothing to do makes way.
    let mut client = server.connect(&other)?;
    client.batch_execute("CREATE EXTENSION event_outbox")?;
    let queued =
        format!("SELECT count(*) FROM inbox.consumers WHERE database = '{left}' AND state = 'queued'");
    until(&mut client, &queued, 1)?;
    assert_eq!(number(&mut client, asleep)?, 1);
    server.connect("postgres")?.batch_execute(&format!("DROP DATABASE {left}"))?;
    Ok(())
}
