//! A new producer sends events that make no progress although Kafka works; if Kafka does not, the status says why.

use std::time::{Duration, Instant};

use event_outbox_lab::proxy::Proxy;
use event_outbox_lab::{Broker, Cluster, Consumer, KafkaCluster, Result, ports, wait};
use postgres::Client;

use crate::support::events::pending_count;
use crate::support::ledger::Ledger;
use crate::support::relay::{status, until_drained, until_status};
use crate::support::server::DedicatedServer;

/// Ample for the relay's watchdog.
const PATIENCE: Duration = Duration::from_secs(150);

/// The log line when the relay replaces a producer that makes no progress.
const RENEWED: &str = "although Kafka is healthy";

fn until_published(client: &mut Client) -> Result<()> {
    wait::until_ok("the events to be published", PATIENCE, || {
        let left = pending_count(client)?;
        Ok((left == 0).then_some(()))
    })
    .map_err(|error| match status(client) {
        Ok(status) => error.context(format!("{status:?}")),
        Err(_) => error,
    })
}

/// librdkafka keeps the higher leader epochs of the deleted topic.
#[test]
fn a_topic_that_was_created_again_with_lower_leader_epochs() -> Result<()> {
    const TOPIC: &str = "progress.recreated";
    let mut brokers = KafkaCluster::start()?;
    brokers.create_topic(TOPIC, 6, &[])?;
    let dedicated = DedicatedServer::start(&brokers.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    let ledger = Ledger::open(&mut client, TOPIC)?;
    ledger.emit(&mut client, 100)?;
    until_drained(&mut client)?;
    brokers.roll()?;
    ledger.emit(&mut client, 100)?;
    until_drained(&mut client)?;
    brokers.delete_topic(TOPIC)?;
    wait::until("the topic to be gone", PATIENCE, || {
        brokers.leader(TOPIC, 0).is_ok_and(|leader| leader.is_none()).then_some(())
    })?;
    client.batch_execute("DELETE FROM promised")?;
    brokers.create_topic(TOPIC, 6, &[])?;
    brokers.until_in_sync()?;
    ledger.emit(&mut client, 300)?;
    until_published(&mut client)?;
    assert!(dedicated.server.log().contains(RENEWED), "it recovered by itself");
    ledger.assert_at_least_once(&mut client, &brokers.brokers()[0])
}

/// Waits until the inbox has stored this many events.
fn until_stored(client: &mut Client, count: i64) -> Result<()> {
    wait::until_ok("the inbox to store the events", PATIENCE, || {
        let stored: i64 = client.query_one("SELECT count(*) FROM inbox.log", &[])?.get(0);
        Ok((stored >= count).then_some(()))
    })
}

/// The only broker has another address than before; the bootstrap address still leads to it.
#[test]
fn a_broker_that_has_moved_is_found_again() -> Result<()> {
    const LISTENER: &str = "BEHIND";
    const TOPIC: &str = "progress.moved";
    let (door, old) = (Proxy::listen(ports::free()?)?, Proxy::listen(ports::free()?)?);
    let mut broker = Broker::options().listener_behind(LISTENER, old.port()).start()?;
    let port = broker.port_of(LISTENER)?;
    door.forward_to(port);
    old.forward_to(port);
    broker.create_topic(TOPIC, 3, &[])?;
    let dedicated = DedicatedServer::start(&format!("127.0.0.1:{}", door.port()))?;
    let mut client = dedicated.connect()?;
    let ledger = Ledger::open(&mut client, TOPIC)?;
    ledger.emit(&mut client, 10)?;
    until_drained(&mut client)?;
    client.execute("SELECT inbox.subscribe('moved', ARRAY[$1], 'earliest')", &[&TOPIC])?;
    until_stored(&mut client, 10)?;
    let new = Proxy::listen(ports::free()?)?;
    new.forward_to(port);
    broker.stop()?;
    ledger.emit(&mut client, 100)?;
    broker.advertise(LISTENER, new.port())?;
    drop(old);
    broker.start()?;
    until_published(&mut client)?;
    until_status(&mut client, "the connection", |status| status.is_connected())?;
    until_stored(&mut client, 110)?;
    ledger.assert_at_least_once(&mut client, &broker)
}

/// The only broker with a replica of the topic is down: the status names the partition.
#[test]
fn a_partition_without_a_leader_is_named() -> Result<()> {
    const TOPIC: &str = "progress.leaderless";
    let mut brokers = KafkaCluster::start()?;
    brokers.create_topic_on(TOPIC, 1, 1, &[])?;
    let dedicated = DedicatedServer::with(Cluster::options("leaderless"), &brokers.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    let ledger = Ledger::open(&mut client, TOPIC)?;
    ledger.emit(&mut client, 10)?;
    until_drained(&mut client)?;
    let place = wait::until_ok("a leader", PATIENCE, || brokers.leader(TOPIC, 0))? as usize - 1;
    brokers.broker(place).kill()?;
    ledger.emit(&mut client, 100)?;
    let names_it = |text: &str| text.contains(TOPIC) && text.contains("partition 0 has no leader");
    wait::until_ok("the status to name the partition", PATIENCE, || {
        Ok(names_it(status(&mut client)?.error()).then_some(()))
    })?;
    let error: Option<String> =
        client.query_one("SELECT error FROM outbox.topics WHERE topic = $1", &[&TOPIC])?.get(0);
    assert!(error.as_deref().is_some_and(|text| text.contains("partition 0 has no leader")), "{error:?}");
    let row = client.query_one(
        "SELECT verdict, finding, hint FROM outbox.check() WHERE subject = 'topic' AND finding LIKE $1",
        &[&format!("%{TOPIC}%")],
    )?;
    let (verdict, finding): (String, String) = (row.get(0), row.get(1));
    assert_eq!(verdict, "error", "{finding}");
    assert!(names_it(&finding), "{finding}");
    assert!(row.get::<_, Option<String>>(2).is_some());
    assert!(!dedicated.server.log().contains(RENEWED), "the producer was replaced in an outage");
    brokers.broker(place).start()?;
    until_published(&mut client)?;
    let records = Consumer::read_all(&brokers.bootstrap_servers(), &[TOPIC])?;
    assert!(records.len() >= 110);
    ledger.assert_at_least_once(&mut client, &brokers.brokers()[place])
}

/// An idle relay does not ask about topics, which the broker would then create.
#[test]
fn an_idle_relay_does_not_create_a_deleted_topic_again() -> Result<()> {
    const TOPIC: &str = "progress.deleted";
    const ABSENT: Duration = Duration::from_secs(10);
    let broker = Broker::shared()?;
    let options = Cluster::options("deleted")
        .set("event_outbox.kafka_properties", "topic.metadata.refresh.interval.ms=1000")
        .set("event_outbox.auto_create_topics", "on");
    let dedicated = DedicatedServer::with(options, &broker.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    Ledger::open(&mut client, TOPIC)?.emit(&mut client, 10)?;
    until_drained(&mut client)?;
    let mut absent_since = Instant::now();
    wait::until_ok("the topic to stay away", PATIENCE, || {
        if broker.has_topic(TOPIC)? {
            broker.delete_topic(TOPIC)?;
            absent_since = Instant::now();
        }
        Ok((absent_since.elapsed() >= ABSENT).then_some(()))
    })
}
