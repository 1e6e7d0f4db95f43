//! Transactions that Kafka regards as ended, but that are open in a partition.

use event_outbox_lab::{Cluster, Consumer, KafkaCluster, NewRecord, Producer, Result, wait};
use postgres::Client;

use crate::support::database::{DEADLINE, values};
use crate::support::events::emit;
use crate::support::relay::until_drained;
use crate::support::server::DedicatedServer;

/// What the coordinator logs when it forgets a partition without a leader (Kafka 4.3).
const FORGOTTEN: &str = "these partitions are likely deleted already and hence can be skipped";

/// Key and value of the record of a transaction that is left open.
const LEFT: &str = "left open";

const COORDINATOR: &str = "__transaction_state";

/// The place of the broker that leads the only partition of a topic.
fn place(brokers: &KafkaCluster, topic: &str) -> Result<usize> {
    Ok(wait::until_ok("a leader", DEADLINE, || brokers.leader(topic, 0))? as usize - 1)
}

/// A topic whose only replica is not on the coordinator's broker.
fn progress_topic(brokers: &KafkaCluster) -> Result<String> {
    let coordinator = place(brokers, COORDINATOR)?;
    for number in 0.. {
        let topic = format!("progress-{number}");
        brokers.create_topic_on(&topic, 1, 1, &[("cleanup.policy", "compact")])?;
        if place(brokers, &topic)? != coordinator {
            return Ok(topic);
        }
    }
    unreachable!("replicas are spread over the brokers")
}

/// A committed transaction that stays open in the topic: its leader is gone when the coordinator wants to tell it.
fn leave_open(brokers: &mut KafkaCluster, producer: &Producer, topic: &str) -> Result<()> {
    let (leader, coordinator) = (place(brokers, topic)?, place(brokers, COORDINATOR)?);
    let value = Some(LEFT.as_bytes());
    producer.begin()?;
    producer.send(&NewRecord { topic, partition: 0, key: value, value, ..NewRecord::default() })?;
    producer.flush()?;
    brokers.broker(leader).kill()?;
    producer.commit()?;
    let log = brokers.brokers()[coordinator].log_path();
    wait::until_ok("the coordinator to forget the partition", DEADLINE, || {
        Ok(std::fs::read_to_string(&log)?.contains(FORGOTTEN).then_some(()))
    })?;
    brokers.broker(leader).start()
}

/// The transactional ids of the relay.
fn transactional_ids(client: &mut Client) -> Result<[String; 2]> {
    let sql = "SELECT format('event_outbox-%s-%s', system_identifier, oid)
                 FROM pg_catalog.pg_control_system(), pg_catalog.pg_database WHERE datname = current_database()";
    let first: String = client.query_one(sql, &[])?.get(0);
    let second = format!("{first}-2");
    Ok([first, second])
}

/// No reader of committed records gets past such a transaction until its producer ends another one there.
fn a_relay_ends_what_is_left_open(of: usize) -> Result<()> {
    const TOPIC: &str = "hanging";
    let mut brokers = KafkaCluster::start()?;
    brokers.create_topic_on(TOPIC, 1, 3, &[])?;
    Producer::transactional(&brokers.bootstrap_servers(), "creates the coordinator's topic")?;
    let progress = progress_topic(&brokers)?;
    let options = Cluster::options("hanging").set("event_outbox.progress_topic", &progress);
    let dedicated = DedicatedServer::with(options, &brokers.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    let id = &transactional_ids(&mut client)?[of];
    let producer = Producer::transactional(&brokers.bootstrap_servers(), id)?;
    leave_open(&mut brokers, &producer, &progress)?;
    dedicated.alter("delivery", "exactly_once")?;
    emit(&mut client, TOPIC, 1)?;
    until_drained(&mut client)?;
    let records = Consumer::read_all(&brokers.bootstrap_servers(), &[TOPIC])?;
    assert_eq!(values(&records), ["1"]);
    // It was ended by an abort: what it says of published events counts for nothing.
    let progress = Consumer::read_all(&brokers.bootstrap_servers(), &[&progress])?;
    assert!(progress.iter().all(|record| record.key_text() != Some(LEFT)), "{progress:?}");
    assert!(!dedicated.server.log().contains("cannot be read"), "it read the progress topic at once");
    Ok(())
}

#[test]
fn a_relay_ends_what_its_first_producer_has_left_open() -> Result<()> {
    a_relay_ends_what_is_left_open(0)
}

#[test]
fn a_relay_ends_what_its_second_producer_has_left_open() -> Result<()> {
    a_relay_ends_what_is_left_open(1)
}
