//! Rows that other sessions have locked: only those events wait to be settled.

use std::time::Duration;

use event_outbox_lab::{Broker, Consumer, Result, wait};
use postgres::Client;

use crate::support::database::{DEADLINE, TestDatabase, values};
use crate::support::events::{emit, pending_count, until_payloads_left};
use crate::support::relay::{until_drained, until_idle, until_status};
use crate::support::server::DedicatedServer;

/// The log line about locked rows.
const LOG_LINE: &str = "since other sessions have locked their rows";

/// Far less than a relay would take that retries a locked batch with growing pauses.
const SOON: Duration = Duration::from_secs(5);

/// Three events wait, and another session has run `sql` on the second when the relay starts.
fn with_a_locked_row(
    name: &str,
    sql: &str,
    meanwhile: impl FnOnce(&mut TestDatabase, &str) -> Result<()>,
) -> Result<TestDatabase> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic(name);
    db.configure("event_outbox.enabled", "off")?;
    for number in 1..=3 {
        emit(&mut db.client, &topic, number)?;
    }
    let mut other = db.connect()?;
    let mut locking = other.transaction()?;
    locking.query(sql, &[])?;
    db.configure("event_outbox.enabled", "on")?;
    until_payloads_left(&mut db.client, &["2"], SOON)?;
    meanwhile(&mut db, &topic)?;
    locking.commit()?;
    assert_eq!(db.drained_values(&topic)?.iter().filter(|value| *value == "2").count(), 1);
    Ok(db)
}

#[test]
fn a_locked_row_holds_up_nobody_else() -> Result<()> {
    let mut db =
        with_a_locked_row("row", "SELECT FROM outbox.events WHERE payload = '2' FOR UPDATE", |db, topic| {
            let pid = db.relay()?;
            // They are settled together with another attempt at the locked row, and without.
            for number in 4..=20 {
                emit(&mut db.client, topic, number)?;
                until_payloads_left(&mut db.client, &["2"], SOON)?;
            }
            let seen = until_status(&mut db.client, "the lock to be shown", |status| {
                status.error().contains("locked") && status.state == "publishing"
            })?;
            assert_eq!((seen.pid, seen.in_flight), (Some(pid), 1));
            Ok(())
        })?;
    let pid = until_idle(&mut db.client)?;
    let log = db.server.log();
    let lines = log.lines().filter(|line| line.contains(LOG_LINE) && line.contains(&format!("[{pid}]")));
    assert_eq!(lines.count(), 1);
    let records = db.drained(&db.topic("row"))?;
    assert_eq!(values(&records), (1..=20).map(|number| number.to_string()).collect::<Vec<_>>());
    Ok(())
}

#[test]
fn a_row_that_is_being_deleted() -> Result<()> {
    with_a_locked_row("deleted", "DELETE FROM outbox.events WHERE payload = '2'", |_, _| Ok(()))?;
    Ok(())
}

/// The row moves to another place in the table; its content does not change.
#[test]
fn a_row_that_is_being_changed() -> Result<()> {
    with_a_locked_row("changed", "UPDATE outbox.events SET attempts = 0 WHERE payload = '2'", |_, _| Ok(()))?;
    Ok(())
}

/// A new producer does not resend an event that is published and only waits for its row.
#[test]
fn a_new_producer_while_a_row_is_locked() -> Result<()> {
    const TOPIC: &str = "locks.renewed";
    let dedicated = DedicatedServer::start(&Broker::shared()?.bootstrap_servers())?;
    let set = |setting: &str, value: &str| {
        dedicated.server.set(setting, value).and_then(|()| dedicated.server.reload())
    };
    let (mut client, mut other) = (dedicated.connect()?, dedicated.connect()?);
    set("event_outbox.enabled", "off")?;
    until_status(&mut client, "the relay to pause", |status| status.state == "disabled")?;
    for number in 1..=3 {
        emit(&mut client, TOPIC, number)?;
    }
    let mut locking = other.transaction()?;
    locking.query("SELECT FROM outbox.events WHERE payload = '2' FOR UPDATE", &[])?;
    set("event_outbox.enabled", "on")?;
    until_payloads_left(&mut client, &["2"], SOON)?;
    set("event_outbox.kafka_properties", "linger.ms=1")?;
    for number in 4..=6 {
        emit(&mut client, TOPIC, number)?;
        until_payloads_left(&mut client, &["2"], SOON)?;
    }
    locking.commit()?;
    until_drained(&mut client)?;
    let read = Consumer::read_all(&Broker::shared()?.bootstrap_servers(), &[TOPIC])?;
    assert_eq!(values(&read), ["1", "2", "3", "4", "5", "6"]);
    Ok(())
}

/// The attempt is counted once, when the row is free.
#[test]
fn a_refused_event_whose_row_is_locked() -> Result<()> {
    let mut db = TestDatabase::new()?;
    db.configure("event_outbox.max_attempts", "1")?;
    db.configure("event_outbox.enabled", "off")?;
    let topic = db.topic("refused");
    db.broker.create_topic(&topic, 1, &[])?;
    db.client.execute("SELECT outbox.emit($1, '0', partition => 9)", &[&topic])?;
    emit(&mut db.client, &topic, 1)?;
    let mut other = db.connect()?;
    let mut locking = other.transaction()?;
    locking.query("SELECT FROM outbox.events WHERE payload = '0' FOR UPDATE", &[])?;
    db.configure("event_outbox.enabled", "on")?;
    until_payloads_left(&mut db.client, &["0"], SOON)?;
    until_status(&mut db.client, "the lock to be shown", |status| status.error().contains("locked"))?;
    locking.commit()?;
    until_drained(&mut db.client)?;
    let dead = db.client.query_one("SELECT attempts, error_class FROM outbox.dead_letters", &[])?;
    assert_eq!((dead.get::<_, i32>(0), dead.get::<_, String>(1)), (1, "unknown_partition".into()));
    let read = Consumer::read_all(&db.broker.bootstrap_servers(), &[&topic])?;
    assert_eq!(values(&read), ["1"]);
    Ok(())
}

/// Its attempt is not counted yet, so later events of its key wait, also with a new producer.
#[test]
fn those_behind_a_refused_event_whose_row_is_locked() -> Result<()> {
    const TOPIC: &str = "locks.behind";
    let broker = Broker::shared()?;
    broker.create_topic(TOPIC, 1, &[])?;
    let dedicated = DedicatedServer::start(&broker.bootstrap_servers())?;
    let set = |setting: &str, value: &str| {
        dedicated.server.set(setting, value).and_then(|()| dedicated.server.reload())
    };
    let (mut client, mut other) = (dedicated.connect()?, dedicated.connect()?);
    set("event_outbox.max_attempts", "1")?;
    set("event_outbox.enabled", "off")?;
    until_status(&mut client, "the relay to pause", |status| status.state == "disabled")?;
    let keyed = |client: &mut Client, arguments: &str| {
        client.batch_execute(&format!("SELECT outbox.emit('{TOPIC}', {arguments}, key => 'k')"))
    };
    keyed(&mut client, "'0', partition => 9")?;
    let mut locking = other.transaction()?;
    locking.query("SELECT FROM outbox.events FOR UPDATE", &[])?;
    set("event_outbox.enabled", "on")?;
    until_status(&mut client, "the lock to be shown", |status| status.error().contains("locked"))?;
    keyed(&mut client, "'1'")?;
    for (number, linger) in [(2, "linger.ms=1"), (3, "linger.ms=2")] {
        emit(&mut client, TOPIC, number)?;
        until_payloads_left(&mut client, &["0", "1"], SOON)?;
        set("event_outbox.kafka_properties", linger)?;
    }
    emit(&mut client, TOPIC, 4)?;
    until_payloads_left(&mut client, &["0", "1"], SOON)?;
    locking.commit()?;
    until_drained(&mut client)?;
    let read = Consumer::read_all(&broker.bootstrap_servers(), &[TOPIC])?;
    assert_eq!(values(&read), ["2", "3", "4", "1"]);
    Ok(())
}

/// An update locks many rows, more than a batch, for a while.
#[test]
fn many_locked_rows() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("many");
    db.configure("event_outbox.enabled", "off")?;
    db.configure("event_outbox.batch_size", "100")?;
    let sql = "SELECT outbox.emit($1, to_jsonb(n), key => 'k') FROM generate_series(1, 1000) AS n";
    db.client.execute(sql, &[&topic])?;
    let mut other = db.connect()?;
    let mut locking = other.transaction()?;
    locking.execute("UPDATE outbox.events SET attempts = 0 WHERE id % 2 = 0", &[])?;
    db.configure("event_outbox.enabled", "on")?;
    wait::until_ok("the free half to be settled", DEADLINE, || {
        let left = pending_count(&mut db.client)?;
        Ok((left == 500).then_some(()))
    })?;
    locking.commit()?;
    let expected: Vec<_> = (1..=1000).map(|number| number.to_string()).collect();
    assert_eq!(db.drained_values(&topic)?, expected);
    Ok(())
}
