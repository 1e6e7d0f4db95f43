//! Delivery at most once: rows are deleted, then their events are published, once.

use std::time::Duration;

use event_outbox_lab::{Broker, Cluster, Consumer, Result, StopMode, wait};
use postgres::Client;

use crate::support::broker::FaultyBroker;
use crate::support::database::{DEADLINE, TestDatabase, values};
use crate::support::relay::{until_drained, until_idle, until_status};
use crate::support::server::DedicatedServer;

const EMIT: &str =
    "SELECT outbox.emit($1, to_jsonb(n), key => (n % 7)::text) FROM generate_series($2::int8, $3) AS n";

fn given_up(client: &mut Client) -> Result<i64> {
    Ok(client.query_one("SELECT given_up FROM outbox.status", &[])?.get(0))
}

fn delivery(client: &mut Client) -> Result<Option<String>> {
    Ok(client.query_one("SELECT delivery FROM outbox.status", &[])?.get(0))
}

/// Waits until nothing is in the table or in flight.
fn until_settled(client: &mut Client) -> Result<()> {
    let sql = "SELECT NOT EXISTS (SELECT FROM outbox.events) AND in_flight = 0 AND state = 'idle' FROM outbox.status";
    wait::until_ok("a relay at rest", DEADLINE, || {
        Ok(client.query_one(sql, &[])?.get::<_, Option<bool>>(0).unwrap_or(false).then_some(()))
    })
}

#[test]
fn all_events_arrive_in_order_when_nothing_fails() -> Result<()> {
    let mut db = TestDatabase::new()?;
    db.configure("event_outbox.delivery", "at_most_once")?;
    let topic = db.own_topic("once")?;
    db.client.execute(EMIT, &[&topic, &1_i64, &20_000_i64])?;
    until_settled(&mut db.client)?;
    let records = db.drained(&topic)?;
    assert_eq!(records.len(), 20_000);
    for key in 0..7 {
        let key = key.to_string();
        let of_key: Vec<i64> = records
            .iter()
            .filter(|record| record.key_text() == Some(key.as_str()))
            .filter_map(|record| record.value_text()?.parse().ok())
            .collect();
        assert!(of_key.is_sorted(), "key {key}");
    }
    assert_eq!(delivery(&mut db.client)?.as_deref(), Some("at_most_once"));
    assert_eq!(given_up(&mut db.client)?, 0);
    let open: i64 = db.client.query_one("SELECT count(*) FROM outbox.unconfirmed", &[])?.get(0);
    assert_eq!(open, 0, "all is confirmed");
    Ok(())
}

#[test]
fn what_kafka_refuses_is_given_up_and_counted() -> Result<()> {
    let broker = FaultyBroker::take()?;
    broker.create_topic("once.small", 1, &[("max.message.bytes", "2000")])?;
    // From the start: what was refused in another mode would be sent again.
    let options = Cluster::options("once")
        .set("event_outbox.delivery", "at_most_once")
        .set("event_outbox.auto_create_topics", "off");
    let dedicated = DedicatedServer::with(options, &broker.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    let emit = "SELECT outbox.emit($1, to_jsonb(repeat(md5(random()::text), $2)))";
    client.query_one(emit, &[&"once.small", &200_i32])?;
    until_settled(&mut client)?;
    client.query_one(emit, &[&"once.missing", &1_i32])?;
    until_settled(&mut client)?;
    client.query_one(emit, &[&"once.small", &1_i32])?;
    until_settled(&mut client)?;
    // Its row is gone before Kafka has answered.
    until_status(&mut client, "the answer", |status| status.published == 1)?;
    assert_eq!(given_up(&mut client)?, 2);
    let row = client.query_one(
        "SELECT error_counts->>'too_large', error_counts->>'unknown_topic', published FROM outbox.status",
        &[],
    )?;
    assert_eq!((row.get(0), row.get(1), row.get(2)), (Some("1"), Some("1"), 1_i64));
    let dead: i64 = client.query_one("SELECT count(*) FROM outbox.dead_letters", &[])?.get(0);
    assert_eq!(dead, 0, "nothing is left of an event that was deleted first");
    assert!(dedicated.server.log().contains("is given up, since it is delivered at most once"));
    Ok(())
}

/// What is known before anything is deleted is treated as ever.
#[test]
fn an_expired_event_is_a_dead_letter() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    db.configure("event_outbox.delivery", "at_most_once")?;
    let topic = db.own_topic("once")?;
    db.client.execute(
        "SELECT outbox.emit($1, '1', expires_at => clock_timestamp() + '10 ms'::interval)",
        &[&topic],
    )?;
    db.client.batch_execute("SELECT pg_sleep(0.02)")?;
    db.configure("event_outbox.enabled", "on")?;
    assert!(db.drained(&topic)?.is_empty());
    let class: String = db.client.query_one("SELECT error_class FROM outbox.dead_letters", &[])?.get(0);
    assert_eq!(class, "expired");
    Ok(())
}

/// Events wait in the table while no broker answers, and are not lost.
#[test]
fn events_wait_out_an_outage() -> Result<()> {
    let mut broker = FaultyBroker::take()?;
    broker.create_topic("once.outage", 1, &[])?;
    broker.stop()?;
    let dedicated = DedicatedServer::start(&broker.bootstrap_servers())?;
    dedicated.server.set("event_outbox.delivery", "at_most_once")?;
    dedicated.server.reload()?;
    let mut client = dedicated.connect()?;
    client.execute(EMIT, &[&"once.outage", &1_i64, &1000_i64])?;
    until_status(&mut client, "an outage", |status| status.is_disconnected())?;
    let waiting: i64 = client.query_one("SELECT count(*) FROM outbox.events", &[])?.get(0);
    assert_eq!(waiting, 1000);
    broker.start()?;
    until_settled(&mut client)?;
    let records = Consumer::read_all(&broker.bootstrap_servers(), &["once.outage"])?;
    assert_eq!(records.len(), 1000);
    assert_eq!(given_up(&mut client)?, 0);
    Ok(())
}

#[test]
fn topics_can_differ_from_the_database() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let (once, least) = (db.own_topic("metrics")?, db.own_topic("orders")?);
    let prefix = format!("{}*", &once[..once.len() - 2]);
    db.client.execute("SELECT outbox.set_delivery($1, 'at_most_once')", &[&prefix])?;
    // A row that cannot be deleted is not published at most once, but it is at least once.
    db.client.batch_execute(
        "CREATE TABLE keeper (id bigint REFERENCES outbox.events);
         SELECT outbox.pause()",
    )?;
    for topic in [&once, &least] {
        db.client.execute(
            "WITH e AS (SELECT outbox.emit($1, '\"kept\"', key => 'k') AS event_id)
             SELECT count(*) FROM e",
            &[topic],
        )?;
        db.client.execute("INSERT INTO keeper SELECT id FROM outbox.events WHERE topic = $1", &[topic])?;
        db.client.execute("SELECT outbox.emit($1, '\"behind\"', key => 'k')", &[topic])?;
        db.client.execute("SELECT outbox.emit($1, '\"free\"', key => 'other')", &[topic])?;
    }
    db.client.batch_execute("SELECT outbox.resume()")?;
    wait::until_ok("what can be deleted to be published", DEADLINE, || {
        let left: i64 = db.client.query_one("SELECT count(*) FROM outbox.events", &[])?.get(0);
        Ok((left == 3).then_some(()))
    })?;
    let mut found = values(&db.promptly(&once, 1)?);
    assert_eq!(found, ["\"free\""]);
    found = values(&db.promptly(&least, 3)?);
    found.sort();
    assert_eq!(found, ["\"behind\"", "\"free\"", "\"kept\""]);
    let error: String = db.client.query_one("SELECT last_error FROM outbox.status", &[])?.get(0);
    assert!(error.contains("row cannot be deleted"), "{error}");

    db.client.execute("SELECT outbox.set_delivery($1, NULL)", &[&prefix])?;
    db.client.batch_execute("DROP TABLE keeper; SELECT outbox.restart_relay()")?;
    let mut last = values(&db.drained(&once)?);
    last.sort();
    assert_eq!(last, ["\"behind\"", "\"free\"", "\"kept\""]);
    Ok(())
}

#[test]
fn another_delivery_is_refused() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    for (arguments, code, message) in [
        ("'a b', 'at_most_once'", "42602", "invalid topic pattern"),
        ("NULL, 'at_most_once'", "42602", "invalid topic pattern"),
        ("'a', 'exactly_once'", "22023", "invalid delivery"),
        ("'a', 'never'", "22023", "invalid delivery"),
    ] {
        let error = db.client.batch_execute(&format!("SELECT outbox.set_delivery({arguments})")).unwrap_err();
        let error = error.as_db_error().expect("an error of the server");
        assert_eq!((error.code().code(), error.message()), (code, message), "{arguments}");
        assert!(error.hint().is_some() && error.detail().is_some(), "{arguments}");
    }
    Ok(())
}

/// A session that has locked a row delays it and its followers, and nothing else.
#[test]
fn a_locked_row_waits_and_others_go() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    db.configure("event_outbox.delivery", "at_most_once")?;
    let topic = db.own_topic("once")?;
    db.client.execute(EMIT, &[&topic, &1_i64, &70_i64])?;
    let mut holder = db.connect()?;
    holder.batch_execute("BEGIN; SELECT FROM outbox.events WHERE payload = '7' FOR UPDATE")?;
    db.configure("event_outbox.enabled", "on")?;
    let free = db.promptly(&topic, 60)?;
    assert!(free.iter().all(|record| record.key_text() != Some("0")), "the locked key went");
    holder.batch_execute("COMMIT")?;
    let all = db.drained(&topic)?;
    assert_eq!(all.len(), 70);
    let of_key: Vec<i64> = all
        .iter()
        .filter(|record| record.key_text() == Some("0"))
        .filter_map(|record| record.value_text()?.parse().ok())
        .collect();
    assert!(of_key.is_sorted(), "{of_key:?}");
    Ok(())
}

/// The switch between modes loses nothing and repeats nothing when nothing fails.
#[test]
fn the_mode_changes_while_events_flow() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic("switched")?;
    let modes = ["at_most_once", "at_least_once", "at_most_once"];
    let mut next = 1_i64;
    for mode in modes {
        db.client.execute(EMIT, &[&topic, &next, &(next + 1999)])?;
        next += 2000;
        db.configure("event_outbox.delivery", mode)?;
        db.client.execute(EMIT, &[&topic, &next, &(next + 1999)])?;
        next += 2000;
    }
    until_settled(&mut db.client)?;
    let records = db.drained(&topic)?;
    assert_eq!(records.len() as i64, next - 1);
    for key in 0..7 {
        let key = key.to_string();
        let of_key: Vec<i64> = records
            .iter()
            .filter(|record| record.key_text() == Some(key.as_str()))
            .filter_map(|record| record.value_text()?.parse().ok())
            .collect();
        assert!(of_key.is_sorted(), "key {key}");
    }
    Ok(())
}

/// Kafka is slow to answer just when the mode changes: what is deleted already is not lost with its producer.
#[test]
fn the_mode_changes_while_kafka_does_not_answer() -> Result<()> {
    const TOPIC: &str = "once.patient";
    let broker = FaultyBroker::take()?;
    broker.create_topic(TOPIC, 1, &[])?;
    let options = Cluster::options("once_patient")
        .set("event_outbox.delivery", "at_most_once")
        .set("event_outbox.shutdown_timeout", "100ms");
    let dedicated = DedicatedServer::with(options, &broker.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    client.execute(EMIT, &[&TOPIC, &1_i64, &10_i64])?;
    until_status(&mut client, "the first answers", |status| status.published == 10)?;
    broker.pause()?;
    client.execute(EMIT, &[&TOPIC, &11_i64, &20_i64])?;
    until_status(&mut client, "events on their way", |status| status.in_flight == 10)?;
    dedicated.server.set("event_outbox.delivery", "at_least_once")?;
    dedicated.server.reload()?;
    wait::until_ok("the relay to know the mode", DEADLINE, || {
        Ok((delivery(&mut client)?.as_deref() == Some("at_least_once")).then_some(()))
    })?;
    client.execute(EMIT, &[&TOPIC, &21_i64, &30_i64])?;
    until_status(&mut client, "the relay to say for what it waits", |status| {
        status.error().contains("10 event(s) of delivery at most once are on their way")
    })?;
    broker.resume()?;
    until_drained(&mut client)?;
    until_settled(&mut client)?;
    let records = Consumer::read_all(&broker.bootstrap_servers(), &[TOPIC])?;
    assert_eq!(records.len(), 30);
    assert_eq!(given_up(&mut client)?, 0);
    Ok(())
}

/// A crash of the server in a drain: nothing twice, and what is lost is counted.
#[test]
fn a_crash_in_a_drain_publishes_nothing_twice() -> Result<()> {
    let broker = FaultyBroker::take()?;
    broker.create_topic("once.crash", 3, &[])?;
    let mut dedicated = DedicatedServer::start(&broker.bootstrap_servers())?;
    dedicated.server.set("event_outbox.delivery", "at_most_once")?;
    dedicated.server.reload()?;
    let mut client = dedicated.connect()?;
    client.batch_execute("SELECT outbox.pause()")?;
    client.execute(EMIT, &[&"once.crash", &1_i64, &100_000_i64])?;
    client.batch_execute("SELECT outbox.resume()")?;
    wait::until_ok("some to be published", Duration::from_secs(30), || {
        Ok((client.query_one("SELECT published FROM outbox.status", &[])?.get::<_, i64>(0) > 0).then_some(()))
    })?;
    drop(client);
    dedicated.server.restart(StopMode::Immediate)?;
    let mut client = dedicated.connect()?;
    until_drained(&mut client)?;
    until_settled(&mut client)?;
    let records = Consumer::read_all(&broker.bootstrap_servers(), &["once.crash"])?;
    let distinct: std::collections::HashSet<_> = records.iter().map(|record| record.value.clone()).collect();
    assert_eq!(distinct.len(), records.len(), "an event arrived twice");
    let lost = 100_000 - distinct.len() as i64;
    let counted = given_up(&mut client)?;
    assert!(lost <= counted, "{lost} lost, {counted} counted");
    Ok(())
}

/// The deletion is on the standby before the event is in Kafka: otherwise a failover would publish it again.
#[test]
fn a_required_standby_has_the_deletion_first() -> Result<()> {
    const TOPIC: &str = "once.replicated";
    let broker = Broker::shared()?;
    broker.create_topic(TOPIC, 1, &[])?;
    let mut primary = DedicatedServer::start(&broker.bootstrap_servers())?;
    primary.server.set("event_outbox.delivery", "at_most_once")?;
    primary.server.reload()?;
    let mut client = primary.connect()?;
    until_idle(&mut client)?;
    let mut standby = Cluster::options("once_required").start_standby_of(&primary.server)?;
    primary.server.set("synchronous_standby_names", "*")?;
    primary.server.reload()?;
    wait::until_ok("the standby to be synchronous", DEADLINE, || {
        Ok(client.query_opt("SELECT FROM pg_stat_replication WHERE sync_state = 'sync'", &[])?.map(drop))
    })?;
    client.execute(EMIT, &[&TOPIC, &1_i64, &3_i64])?;
    // Their rows are gone before.
    until_status(&mut client, "the answers", |status| status.published == 3)?;
    standby.stop(StopMode::Fast)?;
    client.batch_execute("SET synchronous_commit = local")?;
    client.execute(EMIT, &[&TOPIC, &4_i64, &6_i64])?;
    until_status(&mut client, "the relay to wait for the standby", |status| {
        status.state == "waiting" && status.error().contains("synchronous standby")
    })?;
    assert_eq!(Consumer::read_all(&broker.bootstrap_servers(), &[TOPIC])?.len(), 3);
    standby.start()?;
    until_settled(&mut client)?;
    assert_eq!(Consumer::read_all(&broker.bootstrap_servers(), &[TOPIC])?.len(), 6);
    drop(client);
    primary.server.stop(StopMode::Fast)?;
    Ok(())
}
