//! What delivery exactly once needs of Kafka, and what `outbox.check()` says of it.

use event_outbox_lab::{Result, wait};
use postgres::Client;

use crate::support::database::{DEADLINE, TestDatabase, values};
use crate::support::events::emit;
use crate::support::relay::{check_relay, until_drained};

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
