//! Operation: pause and resume, restarts, the relays of all databases, the backlog.

use event_outbox_lab::{Cluster, Result, wait};
use postgres::Client;

use crate::support::database::{DEADLINE, TestDatabase};
use crate::support::events::{emit, pending_count};
use crate::support::relay::{until_drained, until_idle, until_status};
use crate::support::server::DedicatedServer;

fn pause(db: &mut TestDatabase, call: &str) -> Result<bool> {
    Ok(db.client.query_one(&format!("SELECT outbox.{call}"), &[])?.get(0))
}

#[test]
fn pause_and_resume() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic("paused")?;
    until_idle(&mut db.client)?;
    // Only the commit counts.
    db.client.batch_execute("BEGIN; SELECT outbox.pause(); ROLLBACK")?;
    emit(&mut db.client, &topic, 1)?;
    until_drained(&mut db.client)?;

    assert!(pause(&mut db, "pause('maintenance')")?);
    assert!(!pause(&mut db, "pause()")?);
    until_status(&mut db.client, "paused", |status| status.state == "paused")?;
    emit(&mut db.client, &topic, 2)?;
    // The pause also holds for the next relay and after a restart of the server (for a copy see `dump`).
    assert!(db.client.query_one("SELECT outbox.restart_relay()", &[])?.get::<_, bool>(0));
    until_status(&mut db.client, "paused again", |status| status.state == "paused")?;
    let row = db.client.query_one("SELECT paused_by = session_user, reason FROM outbox.paused", &[])?;
    assert_eq!((row.get(0), row.get(1)), (true, "maintenance"));
    let left = pending_count(&mut db.client)?;
    assert_eq!(left, 1);

    assert!(pause(&mut db, "resume()")?);
    assert!(!pause(&mut db, "resume()")?);
    assert_eq!(db.drained_values(&topic)?, ["1", "2"]);
    Ok(())
}

/// Another session may commit the pause, long after.
#[test]
fn pause_and_resume_in_prepared_transactions() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic("prepared")?;
    until_idle(&mut db.client)?;
    let gid = db.database.clone();
    let prepare = format!("BEGIN; SELECT outbox.pause(); PREPARE TRANSACTION '{gid}'");
    db.client.batch_execute(&prepare)?;
    emit(&mut db.client, &topic, 1)?;
    until_drained(&mut db.client)?;
    db.connect()?.batch_execute(&format!("COMMIT PREPARED '{gid}'"))?;
    // Events that are emitted after the commit are not published.
    emit(&mut db.client, &topic, 2)?;
    until_status(&mut db.client, "paused", |status| status.state == "paused")?;
    let left = pending_count(&mut db.client)?;
    assert_eq!(left, 1);

    db.client.batch_execute(&prepare.replace("pause", "resume"))?;
    db.connect()?.batch_execute(&format!("COMMIT PREPARED '{gid}'"))?;
    assert_eq!(db.drained_values(&topic)?, ["1", "2"]);
    Ok(())
}

#[test]
fn a_restart_by_hand_is_one_in_order_and_at_once() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic("restarted")?;
    for number in 1..=20 {
        emit(&mut db.client, &topic, number)?;
        if number % 5 == 0 {
            let before = db.relay()?;
            assert!(db.client.query_one("SELECT outbox.restart_relay()", &[])?.get::<_, bool>(0));
            wait::until_ok("another relay", DEADLINE, || Ok((db.relay()? != before).then_some(())))?;
        }
    }
    let all: Vec<_> = (1..=20).map(|number| number.to_string()).collect();
    assert_eq!(db.drained_values(&topic)?, all);
    Ok(())
}

#[test]
fn the_relays_of_all_databases_are_seen_from_each() -> Result<()> {
    let (mut one, mut other) = (TestDatabase::new()?, TestDatabase::new()?);
    let topic = other.own_topic("seen")?;
    emit(&mut other.client, &topic, 1)?;
    until_drained(&mut other.client)?;
    let pid = other.relay()?;
    one.relay()?;
    let sql = "SELECT pid, published, publish_rate > 0, max_in_flight FROM outbox.relays WHERE database = $1";
    let seen = wait::until_ok("the other relay", DEADLINE, || {
        Ok(one.client.query_opt(sql, &[&other.database])?.filter(|row| row.get::<_, i64>(1) == 1))
    })?;
    assert_eq!((seen.get(0), seen.get(2), seen.get(3)), (pid, true, 5_000_i64));
    // The list has this database, and none without a relay.
    let sql = "SELECT count(*), count(*) FILTER (WHERE database = $1), count(*) FILTER (WHERE database = 'template1')
                 FROM outbox.relays";
    let row = one.client.query_one(sql, &[&one.database])?;
    assert!(row.get::<_, i64>(0) >= 2);
    assert_eq!((row.get::<_, i64>(1), row.get::<_, i64>(2)), (1, 0));
    Ok(())
}

/// A role that can read the status of one database cannot read that of others.
#[test]
fn the_relays_of_other_databases_are_for_those_who_are_allowed() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let user = format!("watch_{}", db.database);
    db.client.batch_execute(&format!(
        "CREATE ROLE {user} LOGIN; GRANT USAGE ON SCHEMA outbox TO {user}; GRANT SELECT ON outbox.status TO {user}"
    ))?;
    let mut client = db.connect_as(&user)?;
    client.query_one("SELECT * FROM outbox.status", &[])?;
    for sql in [
        "SELECT * FROM outbox.relays",
        "SELECT outbox.relay_status(oid) FROM pg_database WHERE datname <> current_database()",
        "SELECT outbox.pause()",
        "SELECT outbox.resume()",
        "SELECT outbox.restart_relay()",
        "SELECT * FROM outbox.check()",
        "SELECT * FROM outbox.backlog",
        "SELECT outbox.create_topic('mine')",
        "SELECT * FROM outbox.describe_topics()",
    ] {
        let error = client.query(sql, &[]).expect_err(sql);
        assert_eq!(error.code().map(|code| code.code()), Some("42501"), "{sql}: {error}");
    }
    drop(client);
    db.client.batch_execute(&format!("DROP OWNED BY {user}; DROP ROLE {user}"))?;
    Ok(())
}

#[test]
fn the_backlog_is_seen_while_no_relay_publishes() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic("waiting")?;
    pause(&mut db, "pause()")?;
    let sql = "SELECT pending, oldest_event_at IS NULL, lag > '0', dead_letters FROM outbox.backlog";
    let row = db.client.query_one(sql, &[])?;
    assert_eq!((row.get::<_, i64>(0), row.get(1), row.get(2), row.get::<_, i64>(3)), (0, true, false, 0));
    db.client.execute("SELECT outbox.emit($1, to_jsonb(n)) FROM generate_series(1, 100) AS n", &[&topic])?;
    // Statistics arrive a moment later, with another session's commit or the end of this one.
    let another = db.connect()?;
    db.client = another;
    wait::until_ok("the count", DEADLINE, || {
        let row = db.client.query_one(sql, &[])?;
        let seen = (row.get::<_, i64>(0), row.get::<_, bool>(1), row.get::<_, bool>(2));
        Ok((seen == (100, false, true)).then_some(()))
    })?;
    pause(&mut db, "resume()")?;
    until_drained(&mut db.client)?;
    assert_eq!(db.client.query_one(sql, &[])?.get::<_, i64>(0), 0);
    Ok(())
}

/// Errors by their class; librdkafka's own statistics, where they are enabled.
#[test]
fn figures() -> Result<()> {
    let mut db = TestDatabase::new()?;
    db.alter_database("SET event_outbox.kafka_properties = 'statistics.interval.ms=100'")?;
    db.alter_database("SET event_outbox.retry_backoff = '1h'")?;
    let topic = db.topic("narrow");
    db.broker.create_topic(&topic, 1, &[])?;
    let sql = "SELECT outbox.emit($1, '1', key => 'a', partition => 7)";
    db.client.query_one(sql, &[&topic])?;
    emit(&mut db.client, &topic, 1)?;
    let sql = "SELECT error_counts->>'unknown_partition', waiting_retries, blocked_keys, in_flight
                 FROM outbox.status WHERE round_trip_ms > 0 AND round_trip_p99_ms >= round_trip_ms
                                      AND queued IS NOT NULL AND open_requests IS NOT NULL AND waiting_retries = 1";
    let row = wait::until_ok("the figures", DEADLINE, || Ok(db.client.query_opt(sql, &[])?))?;
    assert_eq!(
        (row.get::<_, Option<&str>>(0), row.get::<_, i64>(1), row.get::<_, i64>(2)),
        (Some("1"), 1, 1)
    );
    Ok(())
}

/// Without a broker a request waits, but its wait can be cancelled and bounded.
#[test]
fn a_question_to_a_broker_that_is_not_there() -> Result<()> {
    let dedicated = DedicatedServer::with(Cluster::options("unasked"), "127.0.0.1:9")?;
    let mut client = dedicated.connect()?;
    let error =
        client.query("SELECT outbox.create_topic('t', timeout => '300ms')", &[]).expect_err("no broker");
    let refusal = error.as_db_error().expect("of the server");
    assert_eq!(refusal.code().code(), "08006", "{error}");
    assert!(refusal.detail().is_some() && refusal.hint().is_some());
    // A cancelled caller frees the request slot for the next.
    client.batch_execute("SET statement_timeout = '300ms'")?;
    let error = client.query("SELECT outbox.create_topic('t')", &[]).expect_err("cancelled");
    assert_eq!(error.code().map(|code| code.code()), Some("57014"));
    client.batch_execute("RESET statement_timeout")?;
    // So does a terminated one.
    let mut victim = dedicated.connect()?;
    let pid: i32 = victim.query_one("SELECT pg_backend_pid()", &[])?.get(0);
    let asking = std::thread::spawn(move || victim.query("SELECT outbox.create_topic('t')", &[]).map(|_| ()));
    wait::until_ok("the victim to wait", DEADLINE, || {
        let sql = "SELECT FROM pg_stat_activity WHERE pid = $1 AND wait_event_type = 'Extension'";
        Ok(client.query_opt(sql, &[&pid])?)
    })?;
    client.query_one("SELECT pg_terminate_backend($1)", &[&pid])?;
    assert!(asking.join().is_ok_and(|answer| answer.is_err()));
    let findings = client.query("SELECT subject, verdict, finding, hint FROM outbox.check()", &[])?;
    let brokers = findings.iter().find(|row| row.get::<_, &str>(0) == "brokers").expect("brokers");
    assert_eq!(brokers.get::<_, &str>(1), "error");
    assert!(brokers.get::<_, Option<&str>>(3).is_some());
    // Kafka did not answer. The callers that left half a minute early delayed nobody.
    assert!(brokers.get::<_, &str>(2).contains("Kafka did not answer"), "{brokers:?}");
    Ok(())
}

/// What is stored besides the events that wait: whether it leaves in time.
#[test]
fn check_tells_of_scheduled_events_the_archive_and_idempotency_keys() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let expect = |client: &mut Client, subject: &str, verdict: &str, said: &str| -> Result<()> {
        let sql = "SELECT verdict, concat_ws(' ', finding, hint) FROM outbox.check() WHERE subject = $1";
        wait::until_ok(&format!("{subject} to be {verdict}: {said}"), DEADLINE, || {
            let row = client.query_opt(sql, &[&subject])?;
            Ok(row
                .is_some_and(|row| row.get::<_, &str>(0) == verdict && row.get::<_, &str>(1).contains(said))
                .then_some(()))
        })
    };
    expect(&mut db.client, "scheduled events", "ok", "No event")?;
    for subject in ["archive", "idempotency keys"] {
        assert!(
            db.client.query("SELECT FROM outbox.check() WHERE subject = $1", &[&subject])?.is_empty(),
            "{subject}"
        );
    }
    // As while a dump is being restored: no id has been drawn.
    let topic = db.own_topic("checked")?;
    db.client.execute(
        "INSERT INTO outbox.scheduled (id, topic, payload, deliver_at) VALUES (7, $1, '1', now() - interval '2 minutes')",
        &[&topic],
    )?;
    expect(&mut db.client, "scheduled events", "warning", "SELECT nextval('outbox.events_id_seq');")?;
    db.client.batch_execute("SELECT nextval('outbox.events_id_seq')")?;
    expect(&mut db.client, "scheduled events", "ok", "No event")?;
    db.client
        .execute("SELECT outbox.emit($1::text, '1', deliver_at => now() + interval '1 day')", &[&topic])?;
    expect(&mut db.client, "scheduled events", "ok", "About 1 events are scheduled")?;
    // A segment that should have left, and a session that reads it.
    db.client.batch_execute("SELECT outbox.set_archive('*', '1 day')")?;
    expect(&mut db.client, "archive", "ok", "1 patterns are archived")?;
    let mut reader = db.connect()?;
    reader.batch_execute("BEGIN; SELECT * FROM outbox.archive")?;
    db.client.batch_execute(
        "INSERT INTO outbox.archive_segment VALUES (0, 1, now() - interval '9 days'), (1, 2, now() - interval '8 days')",
    )?;
    expect(&mut db.client, "archive", "warning", "pg_locks")?;
    reader.batch_execute("ROLLBACK")?;
    db.configure("event_outbox.sweep_interval", "1s")?;
    expect(&mut db.client, "archive", "ok", "1 patterns are archived")?;
    // Keys that a transaction keeps.
    db.client.execute("SELECT outbox.emit($1::text, '1', idempotency_key => 'a')", &[&topic])?;
    expect(&mut db.client, "idempotency keys", "ok", "About 1 keys are known")?;
    let mut keeper = db.connect()?;
    keeper.execute("BEGIN", &[])?;
    keeper.execute("SELECT outbox.emit($1::text, '1', idempotency_key => 'b')", &[&topic])?;
    db.client.batch_execute(
        "INSERT INTO outbox.idempotency_period (number, began_at, former) VALUES (1, now() - interval '9 days', 'open')
             ON CONFLICT (only_one) DO UPDATE SET number = 1, began_at = excluded.began_at, former = 'open', closed_at = NULL",
    )?;
    expect(&mut db.client, "idempotency keys", "warning", "See \"relay\"")?;
    Ok(())
}
