//! A topic that Kafka cannot take for the moment keeps its own events waiting, and nobody else's.

use event_outbox_tests::{Consumer, Record, Result, wait};
use rdkafka::mocking::MockCluster;

use crate::stage::{DEADLINE, Stage};

/// More than the window holds.
const STUCK: i32 = 1000;
const FREE: i32 = 300;

fn values(records: &[Record]) -> Vec<i32> {
    records.iter().filter_map(|record| record.value_text()?.parse().ok()).collect()
}

/// A broker that has lost the leader of one topic on command: librdkafka's own mock.
#[test]
fn a_topic_without_a_leader_does_not_starve_the_others() -> Result<()> {
    let brokers = MockCluster::new(1)?;
    for topic in ["stuck", "free"] {
        brokers.create_topic(topic, 1, 1)?;
    }
    brokers.partition_leader("stuck", 0, None)?;

    let mut stage = Stage::new()?;
    for (name, value) in [
        ("bootstrap_servers", brokers.bootstrap_servers()),
        ("max_in_flight", "100".into()),
        ("batch_size", "50".into()),
    ] {
        stage.client.batch_execute(&format!(
            "ALTER DATABASE {} SET event_outbox.{name} = '{value}'",
            stage.database
        ))?;
    }
    let emit = "SELECT count(outbox.emit($1, to_jsonb(n), key => 'k')) FROM generate_series(1, $2::int) AS n";
    stage.client.query_one(emit, &[&"stuck", &STUCK])?;
    stage.client.query_one(emit, &[&"free", &FREE])?;

    wait::until_ok("the events of the other topic to be published", DEADLINE, || {
        let left: i64 =
            stage.client.query_one("SELECT count(*) FROM outbox.events WHERE topic = 'free'", &[])?.get(0);
        Ok((left == 0).then_some(()))
    })?;
    let waiting = stage.client.query_one("SELECT count(*), max(attempts) FROM outbox.events", &[])?;
    assert_eq!(
        (waiting.get::<_, i64>(0), waiting.get::<_, i32>(1)),
        (i64::from(STUCK), 0),
        "they wait, blameless"
    );

    brokers.partition_leader("stuck", 0, Some(1))?;
    wait::until_ok("the events of the topic with a new leader to be published", DEADLINE, || {
        let left: i64 = stage.client.query_one("SELECT count(*) FROM outbox.events", &[])?.get(0);
        Ok((left == 0).then_some(()))
    })?;
    let read = |topic: &str| Consumer::read_all(&brokers.bootstrap_servers(), &[topic]);
    assert_eq!(values(&read("stuck")?), (1..=STUCK).collect::<Vec<_>>(), "in order, each once");
    assert_eq!(values(&read("free")?), (1..=FREE).collect::<Vec<_>>());
    Ok(())
}
