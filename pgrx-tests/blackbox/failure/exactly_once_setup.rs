//! What delivery exactly once needs of Kafka, and what `outbox.check()` says of it.

use event_outbox_lab::{Broker, Cluster, Consumer, Result, wait};
use postgres::Client;

use crate::support::database::{DEADLINE, TestDatabase, values};
use crate::support::events::emit;
use crate::support::relay::{check_relay, until_drained};
use crate::support::server::DedicatedServer;

/// The verdict, the finding and the hint about the progress topic.
fn check_progress(client: &mut Client) -> Result<Option<(String, String, String)>> {
    let sql =
        "SELECT verdict, finding, coalesce(hint, '') FROM outbox.check() WHERE subject = 'progress topic'";
    Ok(client.query_opt(sql, &[])?.map(|row| (row.get(0), row.get(1), row.get(2))))
}

#[test]
fn the_check_examines_the_progress_topic() -> Result<()> {
    let mut db = TestDatabase::new()?;
    assert_eq!(check_progress(&mut db.client)?, None, "only this mode has one");
    let (topic, progress) = (db.own_topic("exact")?, db.topic("progress"));
    db.configure("event_outbox.progress_topic", &progress)?;
    db.configure("event_outbox.delivery", "exactly_once")?;
    emit(&mut db.client, &topic, 1)?;
    until_drained(&mut db.client)?;
    // A session keeps the settings that the database had when it began.
    let mut client = db.connect()?;
    let (verdict, finding, _) = check_progress(&mut client)?.unwrap_or_default();
    assert_eq!(verdict, "ok", "{finding}");
    assert!(finding.contains(&progress) && finding.contains("1 partition"), "{finding}");

    // The relay has looked at its start.
    db.broker.configure_topic(&progress, &[("cleanup.policy", "delete")])?;
    let (finding, hint) = wait::until_ok("the check to see it", DEADLINE, || {
        let (verdict, finding, hint) = check_progress(&mut client)?.unwrap_or_default();
        Ok((verdict == "error").then_some((finding, hint)))
    })?;
    assert!(finding.contains("cleanup.policy=delete"), "{finding}");
    assert!(hint.starts_with("kafka-configs --alter") && hint.contains(&progress), "{hint}");
    Ok(())
}

/// Kafka refuses a producer with a longer timeout than it allows.
#[test]
fn a_transaction_must_not_last_longer_than_kafka_allows() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic("exact")?;
    db.configure("event_outbox.kafka_properties", "transaction.timeout.ms=1000000")?;
    db.configure("event_outbox.delivery", "exactly_once")?;
    emit(&mut db.client, &topic, 1)?;
    let error = db.until_state("waiting")?;
    assert!(error.contains("transaction.max.timeout.ms"), "{error}");
    let (verdict, hint) = check_relay(&mut db.client)?;
    assert_eq!(verdict, "error");
    assert!(hint.starts_with("Lower transaction.timeout.ms in event_outbox.kafka_properties"), "{hint}");
    db.configure("event_outbox.kafka_properties", "transaction.timeout.ms=60000")?;
    assert_eq!(values(&db.drained(&topic)?), ["1"]);
    Ok(())
}

/// The brokers' defaults make topics that need more replicas than they have. The relay's topic has as many as there are brokers
/// for, and outlives one of them.
#[test]
fn the_progress_topic_has_replicas_whatever_the_brokers_default_is() -> Result<()> {
    const TOPIC: &str = "replicas";
    const PROGRESS: &str = "event-outbox-progress";
    let options = Broker::options()
        .set("auto.create.topics.enable", "false")
        .set("default.replication.factor", 1)
        .set("min.insync.replicas", 2)
        .set("transaction.state.log.replication.factor", 3);
    let mut brokers = options.start_cluster(3)?;
    brokers.create_topic_on(TOPIC, 1, 3, &[])?;
    let settings = Cluster::options("replicas").set("event_outbox.delivery", "exactly_once");
    let dedicated = DedicatedServer::with(settings, &brokers.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    emit(&mut client, TOPIC, 1)?;
    until_drained(&mut client)?;
    assert_eq!(brokers.replicas(PROGRESS, 0)?.len(), 3);
    let leader = wait::until_ok("a leader", DEADLINE, || brokers.leader(PROGRESS, 0))? as usize - 1;
    brokers.broker(leader).kill()?;
    emit(&mut client, TOPIC, 2)?;
    until_drained(&mut client)?;
    brokers.broker(leader).start()?;
    let records = Consumer::read_all(&brokers.bootstrap_servers(), &[TOPIC])?;
    assert_eq!(values(&records), ["1", "2"]);
    Ok(())
}
