//! The relay copes with DDL on its table, and with what other sessions do meanwhile.

use std::collections::HashSet;

use event_outbox_lab::{Consumer, Record, Result, wait};
use rdkafka::mocking::MockCluster;

use crate::support::database::{DEADLINE, TestDatabase};
use crate::support::events::emit_numbers;
use crate::support::relay::{status, until_drained, until_idle, until_processes, until_status};

/// The key of event `n`: one of five.
const KEY: &str = "(n % 5)::text";

/// Runs `command` while a backlog drains: the relay stays the same process, goes on, and publishes all events that the
/// command has left.
fn bears(command: &str, left: impl Fn(i32) -> bool) -> Result<()> {
    const ROUNDS: usize = 3;
    const EVENTS: i32 = 20_000;
    let mut db = TestDatabase::new()?;
    let pid = until_idle(&mut db.client)?;
    let topic = db.topic("borne");
    for _ in 0..ROUNDS {
        let before = status(&mut db.client)?.published;
        emit_numbers(&mut db.client, &topic, 1..=EVENTS, KEY)?;
        until_status(&mut db.client, "the first to leave", |status| status.published > before)?;
        db.client.batch_execute(command)?;
    }
    until_drained(&mut db.client)?;
    let later = db.topic("later");
    emit_numbers(&mut db.client, &later, 1..=10, KEY)?;
    assert_eq!(db.drained(&later)?.len(), 10);
    assert_eq!(until_idle(&mut db.client)?, pid);
    let records = Consumer::read_all(&db.broker.bootstrap_servers(), &[&topic])?;
    let number = |record: &Record| record.value_text().and_then(|text| text.parse().ok());
    let published: HashSet<_> = records
        .iter()
        .filter(|record| number(record).is_some_and(&left))
        .filter_map(|record| record.header("ce_id"))
        .collect();
    assert_eq!(published.len(), ROUNDS * (1..=EVENTS).filter(|number| left(*number)).count());
    Ok(())
}

#[test]
fn vacuum_full() -> Result<()> {
    bears("VACUUM FULL outbox.events", |_| true)
}

#[test]
fn cluster_and_reindex() -> Result<()> {
    bears("CLUSTER outbox.events USING events_pkey; REINDEX TABLE outbox.events", |_| true)
}

#[test]
fn rows_deleted_by_hand() -> Result<()> {
    bears("DELETE FROM outbox.events WHERE convert_from(payload, 'UTF8')::int % 2 = 0", |number| {
        number % 2 == 1
    })
}

#[test]
fn truncate() -> Result<()> {
    bears("TRUNCATE outbox.events", |_| false)
}

#[test]
fn truncate_with_a_new_sequence() -> Result<()> {
    bears("TRUNCATE outbox.events RESTART IDENTITY", |_| false)
}

/// Rows are deleted by hand while in flight, and others take their places: an acknowledgement deletes only its own
/// event.
#[test]
fn rows_in_the_places_of_others() -> Result<()> {
    const PLACES: &str = "SELECT array_agg(ctid::text ORDER BY ctid) FROM outbox.events";
    let brokers = MockCluster::new(1)?;
    brokers.create_topic("places", 1, 1)?;
    brokers.partition_leader("places", 0, None)?;
    let mut db = TestDatabase::new()?;
    let servers = brokers.bootstrap_servers();
    db.alter_database(&format!("SET event_outbox.bootstrap_servers = '{servers}'"))?;
    // The events fill the page, with no room for more.
    db.alter_database("SET event_outbox.ordering = 'none'")?;
    db.alter_database("SET event_outbox.max_in_flight = 8")?;
    emit_numbers(&mut db.client, "places", 1..=6, KEY)?;
    until_status(&mut db.client, "events in flight", |status| status.in_flight == 6)?;
    let before: Vec<String> = db.client.query_one(PLACES, &[])?.get(0);
    db.client.batch_execute("DELETE FROM outbox.events")?;
    db.client.batch_execute("VACUUM outbox.events")?;
    emit_numbers(&mut db.client, "places", 1..=6, KEY)?;
    let after: Vec<String> = db.client.query_one(PLACES, &[])?.get(0);
    assert_eq!(before, after);
    brokers.partition_leader("places", 0, Some(1))?;
    until_drained(&mut db.client)?;
    assert_eq!(Consumer::read_all(&servers, &["places"])?.len(), 12);
    Ok(())
}

#[test]
fn a_column_added() -> Result<()> {
    let mut db = TestDatabase::new()?;
    until_idle(&mut db.client)?;
    let topic = db.topic("wide");
    db.client.batch_execute("ALTER TABLE outbox.events ADD COLUMN mine integer DEFAULT 1")?;
    emit_numbers(&mut db.client, &topic, 1..=10, KEY)?;
    assert_eq!(db.drained(&topic)?.len(), 10);
    Ok(())
}

/// The relay waits for a lock two seconds at a time, logs that once, and recovers by itself.
#[test]
fn a_table_that_is_locked() -> Result<()> {
    const LOG_LINE: &str = "relay transaction failed, will retry";
    let mut db = TestDatabase::new()?;
    let pid = until_idle(&mut db.client)?;
    let topic = db.topic("locked");
    let mut locker = db.server.connect(&db.database)?;
    let mut lock = locker.transaction()?;
    lock.batch_execute("LOCK TABLE outbox.events IN ACCESS EXCLUSIVE MODE")?;
    lock.query_one("SELECT outbox.emit($1, '{}')", &[&topic])?;
    db.client.batch_execute("NOTIFY outbox")?;
    let failing = until_status(&mut db.client, "the relay to fail", |status| status.state == "failing")?;
    assert!(failing.error().contains("lock"), "{failing:?}");
    // At least one more attempt while the lock is held.
    let sql = "SELECT last_error_at::text FROM outbox.status";
    let first: String = db.client.query_one(sql, &[])?.get(0);
    wait::until_ok("another try", DEADLINE, || {
        Ok((db.client.query_one(sql, &[])?.get::<_, String>(0) != first).then_some(()))
    })?;
    lock.commit()?;
    assert_eq!(db.drained(&topic)?.len(), 1);
    assert_eq!(until_idle(&mut db.client)?, pid);
    let log = db.server.log();
    let lines = log.lines().filter(|line| line.contains(LOG_LINE) && line.contains(&format!("[{pid}]")));
    assert_eq!(lines.count(), 1);
    Ok(())
}

#[test]
fn a_transaction_open_for_long_holds_nobody_back() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("long");
    let mut idler = db.server.connect(&db.database)?;
    let mut open = idler.transaction()?;
    open.query_one("SELECT outbox.emit($1, '\"long\"')", &[&topic])?;
    for _ in 0..5 {
        emit_numbers(&mut db.client, &topic, 1..=100, KEY)?;
    }
    assert_eq!(db.drained(&topic)?.len(), 500);
    // Its lower id is found when it commits at last.
    open.commit()?;
    let records = db.drained(&topic)?;
    assert_eq!(records.len(), 501);
    assert!(records.iter().any(|record| record.value_text() == Some("\"long\"")));
    Ok(())
}

#[test]
fn a_reader_with_an_old_snapshot_holds_nobody_back() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("snapshot");
    emit_numbers(&mut db.client, &topic, 1..=1000, KEY)?;
    let mut reader = db.server.connect(&db.database)?;
    let mut old =
        reader.build_transaction().isolation_level(postgres::IsolationLevel::RepeatableRead).start()?;
    let count = "SELECT count(*) FROM outbox.events";
    let before: i64 = old.query_one(count, &[])?.get(0);
    for round in 2..=4 {
        emit_numbers(&mut db.client, &topic, 1..=1000, KEY)?;
        assert_eq!(db.drained(&topic)?.len(), round * 1000);
    }
    assert_eq!(old.query_one(count, &[])?.get::<_, i64>(0), before);
    Ok(())
}

/// The relay holds no snapshot and no transaction while events wait for Kafka.
#[test]
fn an_outage_does_not_hold_back_vacuum() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let alter = format!("ALTER DATABASE {} SET event_outbox.bootstrap_servers = '127.0.0.1:1'", db.database);
    db.client.batch_execute(&alter)?;
    db.alter_database("SET event_outbox.ordering = 'none'")?;
    emit_numbers(&mut db.client, "nowhere", 1..=100, KEY)?;
    let waits = until_status(&mut db.client, "events in flight", |status| status.in_flight == 100)?;
    let sql = "SELECT backend_xmin IS NULL AND xact_start IS NULL FROM pg_stat_activity WHERE pid = $1";
    wait::until_ok("the relay to let go of its snapshot", DEADLINE, || {
        let free: bool = db.client.query_one(sql, &[&waits.pid])?.get(0);
        Ok(free.then_some(()))
    })
}

#[test]
fn an_extension_dropped_with_events_in_flight() -> Result<()> {
    let mut db = TestDatabase::new()?;
    until_idle(&mut db.client)?;
    let topic = db.topic("dropped");
    emit_numbers(&mut db.client, &topic, 1..=50_000, KEY)?;
    until_status(&mut db.client, "events in flight", |status| status.in_flight > 0 || status.published > 0)?;
    db.client.batch_execute("DROP EXTENSION event_outbox")?;
    until_processes(db.server, &db.database, 0)?;
    // The records that it published before are complete.
    let records = Consumer::read_all(&db.broker.bootstrap_servers(), &[&topic])?;
    assert!(records.len() <= 50_000 && records.iter().all(|record| record.header("ce_id").is_some()));
    db.client.batch_execute("CREATE EXTENSION event_outbox")?;
    until_idle(&mut db.client)?;
    Ok(())
}
