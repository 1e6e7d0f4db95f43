//! Topics whose events Kafka refuses do not delay other topics.

use std::time::Instant;

use event_outbox_lab::{Broker, Cluster, Consumer, Result, wait};

use crate::support::database::{DEADLINE, PROMPTLY, TestDatabase, values};
use crate::support::events::{emit, pending_count};
use crate::support::server::DedicatedServer;

/// Stores events with a partition that the topic does not have.
fn flood(db: &mut TestDatabase, topic: &str, count: i64) -> Result<()> {
    let sql = "INSERT INTO outbox.events (topic, partition, payload) SELECT $1, 999, 'x' FROM generate_series(1, $2::bigint)";
    db.client.execute(sql, &[&topic, &count])?;
    Ok(())
}

#[test]
fn a_topic_that_is_refused_lets_others_through() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let (bad, good, fresh) = (db.own_topic("bad")?, db.own_topic("good")?, db.own_topic("fresh")?);
    flood(&mut db, &bad, 300_000)?;
    for number in 0..10 {
        emit(&mut db.client, &good, number)?;
    }
    let arrived = values(&db.promptly(&good, 10)?);
    assert_eq!(arrived, (0..10).map(|number| number.to_string()).collect::<Vec<_>>());
    // The bad events are still there, and a new topic is not delayed either.
    emit(&mut db.client, &fresh, 1)?;
    db.promptly(&fresh, 1)?;
    let left = pending_count(&mut db.client)?;
    assert!(left > 0, "all died before the others arrived: too few to show anything");
    Ok(())
}

/// The broker refuses whole batches of the topic, since their events have no key.
#[test]
fn a_topic_whose_batches_are_refused_lets_others_through() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let (bad, good) = (db.topic("compacted"), db.own_topic("good")?);
    db.broker.create_topic(&bad, 1, &[("cleanup.policy", "compact")])?;
    let sql = "INSERT INTO outbox.events (topic, payload) SELECT $1, 'x' FROM generate_series(1, 100000)";
    db.client.execute(sql, &[&bad])?;
    emit(&mut db.client, &good, 1)?;
    db.promptly(&good, 1)?;
    let mut bad_ones = db.connect()?;
    for number in 2..10 {
        bad_ones.execute(
            "INSERT INTO outbox.events (topic, payload) SELECT $1, 'x' FROM generate_series(1, 1000)",
            &[&bad],
        )?;
        emit(&mut db.client, &good, number)?;
    }
    db.promptly(&good, 9)?;
    Ok(())
}

#[test]
fn hundreds_of_topics_that_are_refused_let_others_through() -> Result<()> {
    let mut db = TestDatabase::new()?;
    db.configure("event_outbox.kafka_properties", "topic.metadata.propagation.max.ms=100")?;
    let (good, fresh) = (db.own_topic("good")?, db.own_topic("fresh")?);
    let sql = "INSERT INTO outbox.events (topic, payload)
               SELECT $1 || n % 300, 'x' FROM generate_series(1, 60000) AS n";
    db.client.execute(sql, &[&format!("{}.none", db.database)])?;
    for number in 0..10 {
        emit(&mut db.client, &good, number)?;
    }
    db.promptly(&good, 10)?;
    emit(&mut db.client, &fresh, 1)?;
    db.promptly(&fresh, 1)?;
    Ok(())
}

/// Refused events wait for a long time, and a topic that gets several groups of events must not wait for its turn behind
/// thousands of topics that are refused.
#[test]
fn ten_thousand_topics_that_are_missing_let_others_through() -> Result<()> {
    let broker = Broker::shared()?;
    let options = Cluster::options("fairness")
        .set("event_outbox.auto_create_topics", "off")
        .set("event_outbox.retry_backoff", "1min");
    let dedicated = DedicatedServer::with(options, &broker.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    let (before, good, fresh) = ("fairness.before", "fairness.good", "fairness.fresh");
    for topic in [before, good, fresh] {
        broker.create_topic(topic, 1, &[])?;
        // An event that came before would wait for a minute.
        wait::until_ok(topic, DEADLINE, || Ok(broker.has_topic(topic)?.then_some(())))?;
    }
    // How long an event takes while nothing is in its way tells how busy the machine is.
    let begin = Instant::now();
    emit(&mut client, before, 1)?;
    let arrived = |topic, count, within| -> Result<()> {
        let mut consumer = Consumer::new(&broker.bootstrap_servers(), &[topic])?;
        consumer.read_until(count, within).map(drop)
    };
    arrived(before, 1, DEADLINE)?;
    let promptly = PROMPTLY.max(begin.elapsed() * 20);
    client.batch_execute(
        "INSERT INTO outbox.events (topic, payload)
         SELECT 'fairness.none' || n % 10000, 'x' FROM generate_series(1, 60000) AS n",
    )?;
    for number in 0..10 {
        emit(&mut client, good, number)?;
    }
    arrived(good, 10, promptly)?;
    emit(&mut client, fresh, 1)?;
    arrived(fresh, 1, promptly)
}
