//! The log of refusals: the first of a kind, then counts. And the grace period of refusals that others can fix.

use event_outbox_lab::{Broker, Result, wait};

use crate::support::database::DEADLINE;
use crate::support::events::emit;
use crate::support::server::DedicatedServer;

#[test]
fn a_flood_of_refusals_is_a_few_lines() -> Result<()> {
    const EVENTS: i64 = 2_000;
    let broker = Broker::shared()?;
    broker.create_topic("flooded", 1, &[])?;
    let dedicated = DedicatedServer::start(&broker.bootstrap_servers())?;
    dedicated.alter("max_attempts", "2")?;
    dedicated.alter("retry_backoff", "100ms")?;
    dedicated.alter("batch_size", "10")?;
    let mut client = dedicated.connect()?;
    client.execute(
        "SELECT outbox.emit('flooded', to_jsonb(i), partition => 999) FROM generate_series(1, $1::bigint) AS i",
        &[&EVENTS],
    )?;
    wait::until_ok("all to be dead", DEADLINE, || {
        let dead: i64 = client.query_one("SELECT count(*) FROM outbox.dead_letters", &[])?.get(0);
        Ok((dead == EVENTS).then_some(()))
    })?;
    // The first is logged at once, the count of the others ten seconds later.
    wait::until("the count", DEADLINE, || {
        dedicated.server.log().contains("more event(s) of topic \"flooded\"").then_some(())
    })?;
    let log = dedicated.server.log();
    let lines = log.lines().filter(|line| line.contains("Kafka refused")).count();
    assert!((2..6).contains(&lines), "{lines} lines");
    Ok(())
}

/// Dead events that cannot be copied to the dead letter topic are not a line each, either.
#[test]
fn a_flood_of_missing_copies_is_a_few_lines() -> Result<()> {
    const EVENTS: i64 = 500;
    let broker = Broker::shared()?;
    broker.create_topic("uncopied", 1, &[])?;
    let dedicated = DedicatedServer::start(&broker.bootstrap_servers())?;
    dedicated.alter("max_attempts", "1")?;
    dedicated.alter("max_event_bytes", "2000")?;
    dedicated.alter("dead_letter_topic", "copies")?;
    let mut client = dedicated.connect()?;
    // The headers that tell of the error make it too large.
    let sql = "SELECT outbox.emit('uncopied', to_jsonb(repeat('x', 1900)), partition => 999)
                 FROM generate_series(1, $1::bigint)";
    client.execute(sql, &[&EVENTS])?;
    wait::until_ok("all to be dead", DEADLINE, || {
        let dead: i64 = client.query_one("SELECT count(*) FROM outbox.dead_letters", &[])?.get(0);
        Ok((dead == EVENTS).then_some(()))
    })?;
    wait::until("the count", DEADLINE, || {
        dedicated.server.log().contains("more dead event(s) of topic \"uncopied\"").then_some(())
    })?;
    let log = dedicated.server.log();
    let lines = log.lines().filter(|line| line.contains("event_outbox: no cop")).count();
    assert!((2..6).contains(&lines), "{lines} lines");
    Ok(())
}

#[test]
fn a_topic_that_is_missing_for_a_while_kills_no_event() -> Result<()> {
    let broker = Broker::shared()?;
    let dedicated = DedicatedServer::start(&broker.bootstrap_servers())?;
    // librdkafka itself waits for a topic that may have just been created.
    dedicated.alter("kafka_properties", "topic.metadata.propagation.max.ms=100")?;
    for (setting, value) in [
        ("auto_create_topics", "off"),
        ("max_attempts", "2"),
        ("retry_backoff", "100ms"),
        ("retry_backoff_max", "500ms"),
    ] {
        dedicated.alter(setting, value)?;
    }
    dedicated.alter("grace_period", "1h")?;
    let mut client = dedicated.connect()?;
    emit(&mut client, "created_late", 1)?;
    wait::until_ok("more refusals than would kill it", DEADLINE, || {
        let attempts = client.query_opt("SELECT attempts FROM outbox.events WHERE attempts > 3", &[])?;
        Ok(attempts.map(|_| ()))
    })?;
    broker.create_topic("created_late", 1, &[])?;
    assert!(client.query_one("SELECT outbox.wait_published('30 s')", &[])?.get::<_, bool>(0));
    assert_eq!(client.query_one("SELECT count(*) FROM outbox.dead_letters", &[])?.get::<_, i64>(0), 0);
    // Without a grace period the attempts decide.
    dedicated.alter("grace_period", "0")?;
    emit(&mut client, "never_created", 1)?;
    wait::until_ok("it to be dead", DEADLINE, || {
        Ok(client.query_opt(
            "SELECT FROM outbox.dead_letters WHERE topic = 'never_created' AND attempts = 2",
            &[],
        )?)
    })?;
    Ok(())
}
