//! Topics whose events Kafka refuses do not delay other topics.

use std::time::Instant;

use event_outbox_lab::{Broker, Cluster, Consumer, Record, Result, wait};

use crate::support::database::{DEADLINE, PROMPTLY, TestDatabase, values};
use crate::support::events::{emit, pending_count};
use crate::support::relay::until_drained;
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

/// Events of other topics are in flight all the time. An event that needs more memory than there is for all of them does not
/// wait until they are published.
#[test]
fn an_event_larger_than_the_window_is_published_amid_a_backlog() -> Result<()> {
    const BACKLOG: i64 = 300_000;
    let broker = Broker::shared()?;
    let (small, large) = ("fairness.small", "fairness.large");
    broker.create_topic(small, 1, &[])?;
    broker.create_topic(large, 1, &[("max.message.bytes", "90000000")])?;
    // The least memory that a relay can have.
    let options = Cluster::options("fairness")
        .set("event_outbox.relay_memory", "8MB")
        .set("event_outbox.max_event_bytes", 20_000_000)
        .set("event_outbox.enabled", "off");
    let dedicated = DedicatedServer::with(options, &broker.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    let fill =
        "INSERT INTO outbox.events (topic, payload) SELECT $1, 'x' FROM generate_series(1, $2::bigint)";
    client.execute(fill, &[&small, &(BACKLOG / 10)])?;
    // The second one waits for the first one, and so does what follows them.
    let emit_large = "SELECT outbox.emit_bytes($1, convert_to(repeat($2, 10000000), 'UTF8'), key => 'k')";
    for letter in ["a", "b"] {
        client.execute(emit_large, &[&large, &letter])?;
    }
    client.execute("SELECT outbox.emit_bytes($1, 'c', key => 'k')", &[&large])?;
    client.execute(fill, &[&small, &BACKLOG])?;
    dedicated.alter("enabled", "on")?;

    let mut consumer = Consumer::new(&broker.bootstrap_servers(), &[large])?;
    let arrived = consumer.read_until(3, DEADLINE)?;
    let first = |record: &Record| record.value_text().and_then(|text| text.chars().next());
    assert_eq!(arrived.iter().map(first).collect::<Vec<_>>(), ['a', 'b', 'c'].map(Some));
    let left = pending_count(&mut client)?;
    assert!(left > BACKLOG / 3, "only {left} events were left");
    until_drained(&mut client)
}
