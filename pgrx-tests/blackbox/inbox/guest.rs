//! The inbox's worker is a guest of the server: there only while it is needed, never in the way, and not in that of the relay.

use std::time::Duration;

use event_outbox_lab::full_disk::Part;
use event_outbox_lab::{Broker, Cluster, FullDisk, Producer, Result, StopMode, wait};

use crate::support::database::{DEADLINE, PROMPTLY, TestDatabase};
use crate::support::events::emit_numbers;
use crate::support::inbox::{
    receive, until_consumer, until_no_lag, until_numbers, until_processes, until_stored,
};
use crate::support::relay;
use crate::support::server::DedicatedServer;
use crate::support::subscriptions::subscribe;

fn no_key(_: i64) -> Option<String> {
    None
}

#[test]
fn the_worker_is_there_while_a_subscription_exists() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic("t")?;
    db.relay()?;
    until_processes(db.server, &db.database, 0)?;
    subscribe(&mut db.client, "first", &[&topic], "latest")?;
    let pid = until_processes(db.server, &db.database, 1)?;
    subscribe(&mut db.client, "second", &[&topic], "latest")?;
    until_no_lag(&mut db.client, "second")?;
    db.client.batch_execute("SELECT inbox.unsubscribe('first')")?;
    until_consumer(&mut db.client, "idle")?;
    assert_eq!(until_processes(db.server, &db.database, 1)?, pid);
    db.client.batch_execute("SELECT inbox.unsubscribe('second')")?;
    until_processes(db.server, &db.database, 0)?;
    until_consumer(&mut db.client, "absent")?;
    // And again.
    subscribe(&mut db.client, "first", &[&topic], "latest")?;
    until_consumer(&mut db.client, "idle")?;
    Ok(())
}

#[test]
fn it_makes_way() -> Result<()> {
    let mut dedicated = DedicatedServer::start(&Broker::shared()?.bootstrap_servers())?;
    let topic = "inbox.makes_way";
    Broker::shared()?.create_topic(topic, 1, &[])?;
    let mut client = dedicated.connect()?;
    subscribe(&mut client, "s", &[topic], "latest")?;
    until_consumer(&mut client, "idle")?;

    // DROP EXTENSION, and everything from the beginning.
    client.batch_execute("DROP EXTENSION event_outbox")?;
    until_processes(&dedicated.server, &dedicated.database, 0)?;
    client.batch_execute("CREATE EXTENSION event_outbox")?;
    subscribe(&mut client, "s", &[topic], "latest")?;
    until_consumer(&mut client, "idle")?;

    // Commands that need the database for themselves.
    drop(client);
    let mut postgres = dedicated.server.connect("postgres")?;
    let copied = format!("CREATE DATABASE copied TEMPLATE {}", dedicated.database);
    postgres.batch_execute(&copied)?;
    postgres.batch_execute("ALTER DATABASE copied RENAME TO renamed")?;
    // Whoever receives in the copy has its worker started.
    receive(&mut dedicated.server.connect("renamed")?, "s", 1)?;
    until_processes(&dedicated.server, "renamed", 1)?;
    postgres.batch_execute("DROP DATABASE renamed")?;
    until_processes(&dedicated.server, &dedicated.database, 1)?;
    drop(postgres);
    for mode in [StopMode::Fast, StopMode::Smart] {
        let took = dedicated.server.restart(mode)?;
        assert!(took < Duration::from_secs(10), "a {mode:?} stop took {took:?}");
        until_consumer(&mut dedicated.connect()?, "idle")?;
    }
    Ok(())
}

/// Whoever locks the log delays what is stored, and nothing else.
#[test]
fn a_locked_log_stops_ingest_alone() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let (topic, other) = (db.own_topic("locked")?, db.own_topic("other")?);
    subscribe(&mut db.client, "s", &[&topic], "latest")?;
    let producer = Producer::new(&db.broker.bootstrap_servers())?;
    producer.send_numbers(&topic, 0, 0..5, no_key)?;
    assert_eq!(until_numbers(&mut db.client, "s", 5)?, [0, 1, 2, 3, 4]);
    let mut locker = db.connect()?;
    locker.batch_execute(
        "BEGIN; LOCK inbox.log_0, inbox.log_1, inbox.log_2, inbox.log_3, inbox.log_4, inbox.log_5, inbox.log_6, inbox.log_7",
    )?;
    producer.send_numbers(&topic, 0, 5..10, no_key)?;
    let waits = "SELECT FROM pg_stat_activity WHERE backend_type = 'event_outbox inbox' AND datname = current_database()
                    AND wait_event_type = 'Lock'";
    let stuck = wait::until_ok("ingest to wait", DEADLINE, || {
        let failing = "SELECT FROM inbox.consumers WHERE database = current_database() AND state = 'failing'";
        Ok(db.client.query_opt(waits, &[])?.or(db.client.query_opt(failing, &[])?))
    });
    stuck?;
    emit_numbers(&mut db.client, &other, 1..=10, "NULL::text")?;
    assert_eq!(db.promptly(&other, 10)?.len(), 10);
    locker.batch_execute("ROLLBACK")?;
    assert_eq!(until_numbers(&mut db.client, "s", 5)?, [5, 6, 7, 8, 9]);
    Ok(())
}

/// A dump reads all tables, and may take hours. The tables of known ids are emptied when nobody reads them.
#[test]
fn a_reader_of_known_ids_holds_up_nothing() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic("known")?;
    db.client
        .execute("SELECT inbox.subscribe('s', ARRAY[$1], 'earliest', deduplicate => '1 ms')", &[&topic])?;
    let mut reader = db.connect()?;
    reader.batch_execute("BEGIN; LOCK inbox.seen_0, inbox.seen_1 IN ACCESS SHARE MODE")?;
    // Outdated rows are removed all the same: of a hundred batches the last are kept.
    let mut sent = 0;
    wait::until_ok("old progress to be removed", DEADLINE, || {
        for _ in 0..10 {
            db.client.execute("SELECT outbox.emit($1, to_jsonb($2::int))", &[&topic, &sent])?;
            sent += 1;
            until_stored(&mut db.client, sent.into())?;
        }
        let sql = "SELECT max(batch) > 120 AND min(batch) > 1 FROM inbox.progress";
        Ok(db.client.query_one(sql, &[])?.get::<_, bool>(0).then_some(()))
    })?;
    let known = "SELECT count(*) FROM inbox.seen WHERE number = 1";
    assert_eq!(db.client.query_one(known, &[])?.get::<_, i64>(0), 0, "a table that is read was emptied");
    reader.batch_execute("ROLLBACK")?;
    wait::until_ok("the other table to be used", DEADLINE, || {
        Ok((db.client.query_one(known, &[])?.get::<_, i64>(0) == 1).then_some(()))
    })
}

/// A worker that waits for a lock ends when the server asks it to.
#[test]
fn a_worker_that_waits_for_a_lock_ends() -> Result<()> {
    let mut dedicated = DedicatedServer::start(&Broker::shared()?.bootstrap_servers())?;
    let topic = "inbox.waits_for_a_lock";
    Broker::shared()?.create_topic(topic, 1, &[])?;
    let mut client = dedicated.connect()?;
    subscribe(&mut client, "s", &[topic], "latest")?;
    until_consumer(&mut client, "idle")?;
    client.batch_execute("BEGIN; LOCK inbox.progress")?;
    let producer = Producer::new(&Broker::shared()?.bootstrap_servers())?;
    producer.send_numbers(topic, 0, 0..5, no_key)?;
    wait::until_ok("ingest to wait", DEADLINE, || {
        let sql = "SELECT FROM pg_stat_activity WHERE backend_type = 'event_outbox inbox' AND wait_event_type = 'Lock'";
        Ok(client.query_opt(sql, &[])?)
    })?;
    let took = dedicated.server.restart(StopMode::Fast)?;
    assert!(took < Duration::from_secs(10), "the stop took {took:?}");
    assert_eq!(until_numbers(&mut dedicated.connect()?, "s", 5)?, [0, 1, 2, 3, 4]);
    Ok(())
}

#[test]
fn a_full_disk_stops_ingest_alone() -> Result<()> {
    const EVENTS: i64 = 4000;
    let disk = FullDisk::prepare()?;
    let broker = Broker::shared()?;
    let options = disk.serve(Cluster::options("disk"));
    let dedicated = DedicatedServer::with(options, &broker.bootstrap_servers())?;
    let (topic, other) = ("inbox.disk", "inbox.disk.other");
    broker.create_topic(topic, 1, &[])?;
    let mut client = dedicated.connect()?;
    subscribe(&mut client, "s", &[topic], "latest")?;
    let producer = Producer::new(&broker.bootstrap_servers())?;
    producer.send_numbers(topic, 0, 0..10, no_key)?;
    until_stored(&mut client, 10)?;
    dedicated.alter("enabled", "off")?;
    relay::until_status(&mut client, "the relay to pause", |status| status.state == "disabled")?;
    until_consumer(&mut client, "disabled")?;
    emit_numbers(&mut client, other, 1..=100, "NULL::text")?;
    producer.send_numbers(topic, 0, 10..EVENTS, no_key)?;

    disk.fill(Part::Data)?;
    dedicated.alter("enabled", "on")?;
    let error = until_consumer(&mut client, "failing")?;
    assert!(error.contains("No space left on device"), "{error}");
    // The relay needs no room.
    wait::until_ok("the relay to publish", PROMPTLY, || {
        Ok((relay::status(&mut client)?.published >= 100).then_some(()))
    })?;
    until_consumer(&mut client, "failing")?;
    disk.clear()?;
    let count = usize::try_from(EVENTS)?;
    assert_eq!(until_numbers(&mut client, "s", count)?, (0..EVENTS).collect::<Vec<_>>());
    Ok(())
}
