//! A topic that Kafka cannot accept for the moment delays only its own events.

use event_outbox_lab::{Broker, Cluster, Consumer, Record, Result, wait};
use postgres::Client;
use rdkafka::mocking::MockCluster;

use crate::support::broker::FaultyBroker;
use crate::support::database::{DEADLINE, TestDatabase};
use crate::support::events::pending_count;
use crate::support::ledger::Ledger;
use crate::support::relay::{status, until_drained, until_status};
use crate::support::server::DedicatedServer;

/// More than the window holds.
const STUCK: i32 = 1000;
const FREE: i32 = 300;

fn values(records: &[Record]) -> Vec<i32> {
    records.iter().filter_map(|record| record.value_text()?.parse().ok()).collect()
}

/// librdkafka's mock takes the leader of one topic away.
#[test]
fn a_topic_without_a_leader_does_not_starve_the_others() -> Result<()> {
    let brokers = MockCluster::new(1)?;
    for topic in ["stuck", "free"] {
        brokers.create_topic(topic, 1, 1)?;
    }
    brokers.partition_leader("stuck", 0, None)?;

    let mut db = TestDatabase::new()?;
    for (name, value) in [
        ("bootstrap_servers", brokers.bootstrap_servers()),
        ("max_in_flight", "100".into()),
        ("batch_size", "50".into()),
    ] {
        // A relay with the old settings would publish to other brokers.
        db.configure(&format!("event_outbox.{name}"), &value)?;
    }
    let emit = "SELECT count(outbox.emit($1, to_jsonb(n), key => 'k')) FROM generate_series(1, $2::int) AS n";
    db.client.query_one(emit, &[&"stuck", &STUCK])?;
    db.client.query_one(emit, &[&"free", &FREE])?;

    wait::until_ok("the events of the other topic to be published", DEADLINE, || {
        let left: i64 =
            db.client.query_one("SELECT count(*) FROM outbox.events WHERE topic = 'free'", &[])?.get(0);
        Ok((left == 0).then_some(()))
    })?;
    let waiting = db.client.query_one("SELECT count(*), max(attempts) FROM outbox.events", &[])?;
    assert_eq!(
        (waiting.get::<_, i64>(0), waiting.get::<_, i32>(1)),
        (i64::from(STUCK), 0),
        "they wait, blameless"
    );

    brokers.partition_leader("stuck", 0, Some(1))?;
    wait::until_ok("the events of the topic with a new leader to be published", DEADLINE, || {
        let left = pending_count(&mut db.client)?;
        Ok((left == 0).then_some(()))
    })?;
    let read = |topic: &str| Consumer::read_all(&brokers.bootstrap_servers(), &[topic]);
    assert_eq!(values(&read("stuck")?), (1..=STUCK).collect::<Vec<_>>(), "in order, each once");
    assert_eq!(values(&read("free")?), (1..=FREE).collect::<Vec<_>>());
    Ok(())
}

fn left(client: &mut Client, topic: &str) -> Result<i64> {
    Ok(client.query_one("SELECT count(*) FROM outbox.events WHERE topic = $1", &[&topic])?.get(0))
}

#[test]
fn a_deleted_topic_does_not_starve_the_others() -> Result<()> {
    let (doomed, alive) = ("stuck.doomed", "stuck.alive");
    let broker = FaultyBroker::take()?;
    let options = Cluster::options("deleted")
        .set("event_outbox.kafka_properties", "topic.metadata.propagation.max.ms=100")
        .set("event_outbox.max_in_flight", 100)
        .set("event_outbox.batch_size", 50)
        .set("event_outbox.max_attempts", 1000)
        .set("event_outbox.retry_backoff_max", "1s");
    let dedicated = DedicatedServer::with(options, &broker.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    let emit = "SELECT count(outbox.emit($1, to_jsonb(n), key => 'k')) FROM generate_series(1, $2::int) AS n";
    for topic in [doomed, alive] {
        broker.create_topic(topic, 1, &[])?;
        client.query_one(emit, &[&topic, &1])?;
    }
    until_drained(&mut client)?;
    broker.delete_topic(doomed)?;
    client.query_one(emit, &[&doomed, &STUCK])?;
    client.query_one(emit, &[&alive, &FREE])?;
    wait::until_ok("the events of the other topic to be published", DEADLINE, || {
        Ok((left(&mut client, alive)? == 0).then_some(()))
    })?;
    until_status(&mut client, "the refusal", |status| status.refused > 0)?;
    assert!(left(&mut client, doomed)? > 0);
    broker.create_topic(doomed, 1, &[])?;
    until_drained(&mut client)?;
    let records = Consumer::read_all(&broker.bootstrap_servers(), &[doomed])?;
    assert_eq!(values(&records), (1..=STUCK).collect::<Vec<_>>());
    Ok(())
}

/// The broker throttles its client for longer than a request may take.
#[test]
fn throttling_is_nobodys_fault() -> Result<()> {
    let broker = Broker::shared()?;
    broker.limit_producer("throttled", 40_000)?;
    let options = Cluster::options("throttled").set(
        "event_outbox.kafka_properties",
        "client.id=throttled,request.timeout.ms=1000,socket.timeout.ms=1500",
    );
    let dedicated = DedicatedServer::with(options, &broker.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    let ledger = Ledger::open(&mut client, "stuck.throttled")?;
    for _ in 0..2 {
        // More than the quota allows: the broker throttles the producer for seconds.
        ledger.emit(&mut client, 2000)?;
        until_drained(&mut client)?;
    }
    assert_eq!(status(&mut client)?.refused, 0);
    let dead: i64 = client.query_one("SELECT count(*) FROM outbox.dead_letters", &[])?.get(0);
    assert_eq!(dead, 0);
    ledger.assert_exactly_once(&mut client, broker)
}
