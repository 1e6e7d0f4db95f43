//! `event_outbox.max_backlog`: a full outbox refuses events, or warns.

use event_outbox_lab::{Cluster, Result, StopMode, wait};
use postgres::Client;

use crate::support::broker::FaultyBroker;
use crate::support::database::{DEADLINE, TestDatabase};
use crate::support::events::{emit_numbers, pending_count};
use crate::support::relay::{until_drained, until_idle, until_status};
use crate::support::server::DedicatedServer;

const EMIT: &str = "SELECT outbox.emit('full', '1')";

/// The SQLSTATE of the statement's error; `None` if it succeeds.
fn code(client: &mut Client, sql: &str) -> Option<String> {
    let error = client.batch_execute(sql).err()?;
    let error = error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error}"));
    let told = error.detail().is_some() && error.hint().is_some();
    assert!(error.code().code() != "53400" || told && error.message() == "the outbox is full", "{error:?}");
    Some(error.code().code().to_owned())
}

fn full() -> Option<String> {
    Some("53400".into())
}

fn limited(limit: i32) -> Result<TestDatabase> {
    let mut db = TestDatabase::disabled()?;
    db.configure("event_outbox.max_backlog", &limit.to_string())?;
    // Sessions read the settings of the database when they begin.
    db.client = db.connect()?;
    Ok(db)
}

#[test]
fn at_the_limit_emit_is_refused_and_what_is_published_makes_room() -> Result<()> {
    let mut db = limited(100)?;
    let topic = db.own_topic("full")?;
    emit_numbers(&mut db.client, &topic, 1..=100, "NULL::text")?;
    for sql in [
        EMIT,
        "SELECT outbox.emit_bytes('full', 'x')",
        "SELECT outbox.emit('full', '1', expires_at => now() + interval '1 h')",
        "SELECT outbox.try_emit('m1', 'full', '1'::text)",
    ] {
        assert_eq!(code(&mut db.client, sql), full(), "{sql}");
    }
    assert_eq!(db.client.query_one("SELECT count(*) FROM outbox.intake", &[])?.get::<_, i64>(0), 0);
    // Not in the way of what is documented to pass.
    for sql in [
        "SELECT outbox.emit('full', '1', deliver_at => now() + interval '1 h')",
        "INSERT INTO outbox.events (topic, payload) VALUES ('full', '1')",
        "SET event_outbox.max_backlog = 0; SELECT outbox.emit('full', '1'); RESET event_outbox.max_backlog",
    ] {
        assert_eq!(code(&mut db.client, sql), None, "{sql}");
    }
    assert_eq!(pending_count(&mut db.client)?, 102);
    db.broker.create_topic("full", 1, &[]).ok();
    db.configure("event_outbox.enabled", "on")?;
    until_drained(&mut db.client)?;
    // The settlement takes them off the count.
    wait::until_ok("room", DEADLINE, || Ok(code(&mut db.client, EMIT).is_none().then_some(())))?;
    Ok(())
}

#[test]
fn a_transaction_counts_its_own_events_and_a_rollback_gives_them_back() -> Result<()> {
    let mut db = limited(10)?;
    let many = "SELECT outbox.emit('full', to_jsonb(n)) FROM generate_series(1, 11) AS n";
    assert_eq!(code(&mut db.client, many), full());
    assert_eq!(code(&mut db.client, &many.replace("11", "10")), None);
    assert_eq!(code(&mut db.client, EMIT), full());
    // What was deleted by hand is known after the next count, which a new relay makes at once.
    db.client.batch_execute("DELETE FROM outbox.events")?;
    db.client.query_one("SELECT outbox.restart_relay()", &[])?;
    wait::until_ok("room", DEADLINE, || Ok(code(&mut db.client, EMIT).is_none().then_some(())))?;
    Ok(())
}

#[test]
fn a_warning_stores_the_event() -> Result<()> {
    let mut db = limited(1)?;
    db.configure("event_outbox.max_backlog_action", "warning")?;
    let config = format!("{EMIT}; {EMIT}; {EMIT}");
    let output = db.server.client_program("psql", &db.database).args(["-Xqtc", &config]).output()?;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{told}");
    assert_eq!(told.matches("WARNING:  the outbox is full").count(), 1, "{told}");
    assert!(told.contains("HINT:"), "{told}");
    assert_eq!(pending_count(&mut db.client)?, 3);
    Ok(())
}

/// A change without its event would be lost to consumers.
#[test]
fn writes_to_captured_tables_are_refused_or_warned_of() -> Result<()> {
    let mut db = limited(10)?;
    db.client.batch_execute("CREATE TABLE t (id int PRIMARY KEY, n int)")?;
    for mode in ["row", "statement"] {
        db.client.batch_execute(&format!(
            "SELECT outbox.capture('t', 'delta', topic => 'full', mode => '{mode}')"
        ))?;
        let insert = "INSERT INTO t SELECT n, 0 FROM generate_series(1, 11) AS n";
        assert_eq!(code(&mut db.client, insert), full(), "{mode}");
        assert_eq!(code(&mut db.client, &insert.replace("11", "10")), None, "{mode}");
        for sql in [
            EMIT,
            "UPDATE t SET n = 1 WHERE id = 1",
            "DELETE FROM t",
            "TRUNCATE t",
            "CALL outbox.emit_snapshot('t')",
        ] {
            assert_eq!(code(&mut db.client, sql), full(), "{mode}: {sql}");
        }
        // What makes no event is not in question.
        assert_eq!(code(&mut db.client, "UPDATE t SET n = n"), None, "{mode}");
        assert_eq!(db.client.query_one("SELECT count(*) FROM t WHERE n = 0", &[])?.get::<_, i64>(0), 10);
        db.client.batch_execute("SET event_outbox.max_backlog_action = 'warning'")?;
        assert_eq!(code(&mut db.client, "UPDATE t SET n = 1"), None, "{mode}");
        assert_eq!(pending_count(&mut db.client)?, 20, "{mode}");
        db.client.batch_execute("RESET event_outbox.max_backlog_action; SELECT outbox.uncapture('t'); TRUNCATE t; DELETE FROM outbox.events")?;
        db.client.query_one("SELECT outbox.restart_relay()", &[])?;
        wait::until_ok("room", DEADLINE, || Ok(code(&mut db.client, EMIT).is_none().then_some(())))?;
        db.client.batch_execute("DELETE FROM outbox.events")?;
        db.client.query_one("SELECT outbox.restart_relay()", &[])?;
        wait::until_ok("all room", DEADLINE, || {
            let ten = "BEGIN; SELECT outbox.emit('full', '1') FROM generate_series(1, 10); ROLLBACK";
            let is_free = code(&mut db.client, ten).is_none();
            db.client.batch_execute("ROLLBACK")?;
            Ok(is_free.then_some(()))
        })?;
    }
    Ok(())
}

/// The counts of the relay's process are gone after a crash; the table is counted again.
#[test]
fn a_restart_counts_what_waits() -> Result<()> {
    let mut broker = FaultyBroker::take()?;
    broker.create_topic("full", 1, &[])?;
    let options = Cluster::options("full").set("event_outbox.max_backlog", 50);
    let mut dedicated = DedicatedServer::with(options, &broker.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    until_idle(&mut client)?;
    broker.stop()?;
    until_status(&mut client, "the outage", |status| status.is_disconnected())?;
    emit_numbers(&mut client, "full", 1..=50, "NULL::text")?;
    assert_eq!(code(&mut client, EMIT), full());
    drop(client);
    dedicated.server.restart(StopMode::Immediate)?;
    let mut client = dedicated.connect()?;
    wait::until_ok("the events to be counted", DEADLINE, || {
        Ok((code(&mut client, EMIT) == full()).then_some(()))
    })?;
    broker.start()?;
    wait::until_ok("room again", DEADLINE * 2, || Ok(code(&mut client, EMIT).is_none().then_some(())))?;
    until_drained(&mut client)
}
