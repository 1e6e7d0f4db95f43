//! Topics whose events Kafka refuses do not keep those of other topics waiting.

use event_outbox_lab::Result;

use crate::support::database::{Stage, emit, values};

/// Events of a topic that has no such partition, stored at once.
fn flood(stage: &mut Stage, topic: &str, count: i64) -> Result<()> {
    let sql = "INSERT INTO outbox.events (topic, partition, payload) SELECT $1, 999, 'x' FROM generate_series(1, $2::bigint)";
    stage.client.execute(sql, &[&topic, &count])?;
    Ok(())
}

#[test]
fn a_topic_that_is_refused_lets_others_through() -> Result<()> {
    let mut stage = Stage::new()?;
    let (bad, good, fresh) = (stage.own_topic("bad")?, stage.own_topic("good")?, stage.own_topic("fresh")?);
    flood(&mut stage, &bad, 300_000)?;
    for number in 0..10 {
        emit(&mut stage.client, &good, number)?;
    }
    let arrived = values(&stage.promptly(&good, 10)?);
    assert_eq!(arrived, (0..10).map(|number| number.to_string()).collect::<Vec<_>>());
    // The bad ones are still there, and a topic that was never used goes through as well.
    emit(&mut stage.client, &fresh, 1)?;
    stage.promptly(&fresh, 1)?;
    let left: i64 = stage.client.query_one("SELECT count(*) FROM outbox.events", &[])?.get(0);
    assert!(left > 0, "all died before the others arrived: too few to show anything");
    Ok(())
}

/// The broker refuses whole batches of it, since their events have no key.
#[test]
fn a_topic_whose_batches_are_refused_lets_others_through() -> Result<()> {
    let mut stage = Stage::new()?;
    let (bad, good) = (stage.topic("compacted"), stage.own_topic("good")?);
    stage.broker.create_topic(&bad, 1, &[("cleanup.policy", "compact")])?;
    let sql = "INSERT INTO outbox.events (topic, payload) SELECT $1, 'x' FROM generate_series(1, 100000)";
    stage.client.execute(sql, &[&bad])?;
    emit(&mut stage.client, &good, 1)?;
    stage.promptly(&good, 1)?;
    let mut bad_ones = stage.connect()?;
    for number in 2..10 {
        bad_ones.execute(
            "INSERT INTO outbox.events (topic, payload) SELECT $1, 'x' FROM generate_series(1, 1000)",
            &[&bad],
        )?;
        emit(&mut stage.client, &good, number)?;
    }
    stage.promptly(&good, 9)?;
    Ok(())
}

#[test]
fn hundreds_of_topics_that_are_refused_let_others_through() -> Result<()> {
    let mut stage = Stage::new()?;
    stage.configure("event_outbox.kafka_properties", "topic.metadata.propagation.max.ms=100")?;
    let (good, fresh) = (stage.own_topic("good")?, stage.own_topic("fresh")?);
    let sql = "INSERT INTO outbox.events (topic, payload)
               SELECT $1 || n % 300, 'x' FROM generate_series(1, 60000) AS n";
    stage.client.execute(sql, &[&format!("{}.none", stage.database)])?;
    for number in 0..10 {
        emit(&mut stage.client, &good, number)?;
    }
    stage.promptly(&good, 10)?;
    emit(&mut stage.client, &fresh, 1)?;
    stage.promptly(&fresh, 1)?;
    Ok(())
}

/// More topics than the relay remembers anything of, none of which exists; and those that wait do so for long.
#[test]
fn ten_thousand_topics_that_are_missing_let_others_through() -> Result<()> {
    let mut stage = Stage::new()?;
    stage.configure("event_outbox.auto_create_topics", "off")?;
    stage.configure("event_outbox.retry_backoff", "1min")?;
    let (good, fresh) = (stage.own_topic("good")?, stage.own_topic("fresh")?);
    let sql = "INSERT INTO outbox.events (topic, payload)
               SELECT $1 || n % 10000, 'x' FROM generate_series(1, 60000) AS n";
    stage.client.execute(sql, &[&format!("{}.none", stage.database)])?;
    for number in 0..10 {
        emit(&mut stage.client, &good, number)?;
    }
    stage.promptly(&good, 10)?;
    emit(&mut stage.client, &fresh, 1)?;
    stage.promptly(&fresh, 1)?;
    Ok(())
}
