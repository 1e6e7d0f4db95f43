//! Topics whose events Kafka refuses do not keep those of other topics waiting.

use event_outbox_tests::Result;

use crate::stage::{Stage, emit, values};

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
