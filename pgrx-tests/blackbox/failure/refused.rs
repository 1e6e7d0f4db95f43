//! Kafka refuses an event: the attempt is counted, the event waits and is retried. Its key waits with it, and no other
//! event does.

use event_outbox_lab::{Broker, Cluster, Consumer, Record, Result, wait};
use postgres::Client;

use crate::support::broker::FaultyBroker;
use crate::support::database::{DEADLINE, TestDatabase};
use crate::support::events::{Event, pending_count};
use crate::support::relay::{until_drained, until_status};
use crate::support::server::DedicatedServer;

/// A waiting event: its attempts, the seconds until the next one, and its error.
struct Waiting {
    attempts: i32,
    delay: Option<f64>,
    error: Option<String>,
}

fn waiting(client: &mut Client, name: &str) -> Result<Option<Waiting>> {
    let row = client.query_opt(
        "SELECT attempts, extract(epoch FROM next_attempt_at - clock_timestamp())::float8, last_error
           FROM outbox.events WHERE convert_from(payload, 'UTF8') LIKE '\"' || $1 || '%'",
        &[&name],
    )?;
    Ok(row.map(|row| Waiting { attempts: row.get(0), delay: row.get(1), error: row.get(2) }))
}

fn until_refused(client: &mut Client, name: &str, attempts: i32) -> Result<Waiting> {
    wait::until_ok(&format!("attempt {attempts} of {name}"), DEADLINE, || {
        Ok(waiting(client, name)?.filter(|waiting| waiting.attempts >= attempts))
    })
}

fn until_only_left(client: &mut Client, count: i64) -> Result<()> {
    wait::until_ok(&format!("all but {count} events to leave"), DEADLINE, || {
        let left = pending_count(client)?;
        Ok((left == count).then_some(()))
    })
    .map_err(|error| error.context(outbox_and_status(client)))
}

/// The events that are left and the status of the relay, for messages.
fn outbox_and_status(client: &mut Client) -> String {
    let sql = "SELECT concat_ws(E'\n', (SELECT s::text FROM outbox.status AS s),
                   (SELECT string_agg(format('%s %s attempts=%s next=%s %s', id, key, attempts, next_attempt_at,
                                             last_error), E'\n' ORDER BY id) FROM outbox.events))";
    client.query_one(sql, &[]).map_or_else(|error| error.to_string(), |row| row.get(0))
}

/// Keeps refused events from dying during the test.
fn never_die(db: &mut TestDatabase) -> Result<()> {
    let sql = format!("ALTER DATABASE {} SET event_outbox.max_attempts = 1000", db.database);
    Ok(db.client.batch_execute(&sql)?)
}

fn values<'r>(records: &'r [Record], key: &str) -> Vec<&'r str> {
    records.iter().filter(|record| record.key_text() == Some(key)).filter_map(Record::value_text).collect()
}

#[test]
fn a_topic_that_does_not_exist_yet() -> Result<()> {
    let broker = FaultyBroker::take()?;
    broker.create_topic("refused.known", 1, &[])?;
    let options = Cluster::options("refused")
        .set("event_outbox.kafka_properties", "topic.metadata.propagation.max.ms=100")
        .set("event_outbox.max_attempts", 1000)
        .set("event_outbox.retry_backoff_max", "2s");
    let dedicated = DedicatedServer::with(options, &broker.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    Event::new("refused.unknown", "first").key("a").emit(&mut client)?;
    let refused = until_refused(&mut client, "first", 1)?;
    assert!(refused.error.is_some_and(|error| error.to_lowercase().contains("topic")));
    assert!(refused.delay.is_some_and(|delay| delay <= 2.0), "{:?}", refused.delay);
    for name in ["second", "third"] {
        Event::new("refused.unknown", name).key("a").emit(&mut client)?;
    }
    // Other topics flow.
    Event::new("refused.known", "flows").key("a").emit(&mut client)?;
    until_only_left(&mut client, 3)?;
    until_refused(&mut client, "first", 2)?;
    // The events behind it were not tried.
    for name in ["second", "third"] {
        let waiting = waiting(&mut client, name)?.expect("it is gone");
        assert_eq!((waiting.attempts, waiting.delay, waiting.error), (0, None, None), "{name}");
    }
    let status = until_status(&mut client, "the refusals", |status| status.refused >= 2)?;
    assert!(status.is_connected() && status.error().contains("refused"), "{status:?}");

    broker.create_topic("refused.unknown", 1, &[])?;
    until_drained(&mut client)?;
    let records = Consumer::read_all(&broker.bootstrap_servers(), &["refused.unknown"])?;
    assert_eq!(values(&records, "a"), [r#""first""#, r#""second""#, r#""third""#]);
    Ok(())
}

/// The topic accepts less than the outbox. Other keys of the topic go on, also those of its batch.
#[test]
fn an_event_too_large_for_its_topic() -> Result<()> {
    let mut db = TestDatabase::new()?;
    never_die(&mut db)?;
    let topic = db.topic("small");
    Broker::shared()?.create_topic(&topic, 1, &[("max.message.bytes", "2000")])?;
    let large = "large".to_owned() + &"x".repeat(10_000);
    let mut transaction = db.client.transaction()?;
    let sql = "SELECT outbox.emit($1, to_jsonb($3::text), key => $2)";
    for (key, name) in [("b", "before"), ("a", &*large), ("a", "behind"), ("b", "after")] {
        transaction.query_one(sql, &[&topic, &key, &name])?;
    }
    transaction.commit()?;
    until_only_left(&mut db.client, 2)?;
    let refused = until_refused(&mut db.client, "large", 1)?;
    assert!(refused.error.is_some_and(|error| error.contains("MessageSizeTooLarge")));
    assert_eq!(waiting(&mut db.client, "behind")?.map(|waiting| waiting.attempts), Some(0));
    // An administrator deletes the event: those behind it go on.
    db.client.execute("DELETE FROM outbox.events WHERE length(payload) > 10000", &[])?;
    let records = db.drained(&topic)?;
    assert_eq!(values(&records, "b"), [r#""before""#, r#""after""#]);
    assert_eq!(values(&records, "a"), [r#""behind""#]);
    Ok(())
}

/// The event behind the refused one is in a batch of its own. The producer keeps that batch when it stops, and nothing
/// else happens that would wake the relay.
#[test]
fn an_event_too_large_for_its_topic_and_another_on_its_way() -> Result<()> {
    let mut db = TestDatabase::new()?;
    db.configure("event_outbox.kafka_properties", "batch.num.messages=1")?;
    let topic = db.topic("small");
    db.broker.create_topic(&topic, 1, &[("max.message.bytes", "2000")])?;
    let mut transaction = db.client.transaction()?;
    let sql = "SELECT outbox.emit($1, to_jsonb($3::text), key => $2)";
    for (key, value) in [("b", "before"), ("a", &*"x".repeat(10_000)), ("b", "after")] {
        transaction.query_one(sql, &[&topic, &key, &value])?;
    }
    transaction.commit()?;
    until_only_left(&mut db.client, 1)?;
    Ok(())
}

#[test]
fn a_partition_out_of_range() -> Result<()> {
    let mut db = TestDatabase::new()?;
    never_die(&mut db)?;
    let topic = db.topic("narrow");
    Broker::shared()?.create_topic(&topic, 2, &[])?;
    let sql = "SELECT outbox.emit($1, to_jsonb($3::text), key => $2, partition => $4)";
    db.client.query_one(sql, &[&topic, &"a", &"outside", &2_i32])?;
    db.client.query_one(sql, &[&topic, &"b", &"inside", &1_i32])?;
    until_only_left(&mut db.client, 1)?;
    let refused = until_refused(&mut db.client, "outside", 1)?;
    assert!(refused.error.is_some_and(|error| error.to_lowercase().contains("partition")));
    db.broker.add_partitions(&topic, 3)?;
    let records = db.drained(&topic)?;
    let places: Vec<_> = records.iter().map(|record| (record.key_text(), record.partition)).collect();
    assert!(places.contains(&(Some("a"), 2)) && places.contains(&(Some("b"), 1)), "{places:?}");
    Ok(())
}

/// A compacted topic refuses records without a key; those with one pass, also those of its batch.
#[test]
fn a_record_that_the_topic_does_not_take() -> Result<()> {
    let mut db = TestDatabase::new()?;
    db.alter_database("SET event_outbox.max_attempts = 2")?;
    db.alter_database("SET event_outbox.retry_backoff = '10ms'")?;
    let topic = db.topic("compacted");
    db.broker.create_topic(&topic, 1, &[("cleanup.policy", "compact")])?;
    let mut transaction = db.client.transaction()?;
    let sql = "SELECT outbox.emit($1, to_jsonb($3::text), key => $2)";
    for (key, name) in [(Some("b"), "before"), (None, "keyless"), (Some("a"), "after")] {
        transaction.query_one(sql, &[&topic, &key, &name])?;
    }
    transaction.commit()?;
    let records = db.drained(&topic)?;
    assert_eq!(values(&records, "b"), [r#""before""#]);
    assert_eq!(values(&records, "a"), [r#""after""#]);
    let dead = db.client.query_one(
        "SELECT convert_from(payload, 'UTF8'), error_class, attempts FROM outbox.dead_letters",
        &[],
    )?;
    let dead: (String, String, i32) = (dead.get(0), dead.get(1), dead.get(2));
    assert_eq!(dead, (r#""keyless""#.into(), "invalid_record".into(), 2));
    Ok(())
}

/// After fixing the cause, an operator can trigger the next attempt at once.
#[test]
fn a_wait_shortened_by_hand() -> Result<()> {
    let mut db = TestDatabase::new()?;
    for setting in ["retry_backoff = '1h'", "retry_backoff_max = '1h'", "sweep_interval = '1h'"] {
        db.alter_database(&format!("SET event_outbox.{setting}"))?;
    }
    let topic = db.topic("shortened");
    db.broker.create_topic(&topic, 1, &[])?;
    let sql = "SELECT outbox.emit($1, to_jsonb($2::text), key => 'k', partition => $3)";
    db.client.query_one(sql, &[&topic, &"refused", &1_i32])?;
    until_refused(&mut db.client, "refused", 1)?;
    db.client.query_one(sql, &[&topic, &"behind", &0_i32])?;
    db.broker.add_partitions(&topic, 2)?;
    db.client.execute("UPDATE outbox.events SET next_attempt_at = now() WHERE attempts > 0", &[])?;
    let records = db.promptly(&topic, 2)?;
    assert_eq!(values(&records, "k").len(), 2);
    Ok(())
}

#[test]
fn a_refusal_reported_by_hand_counts() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("byhand");
    let mut transaction = db.client.transaction()?;
    transaction.query_one("SELECT outbox.emit($1, '1', key => 'k')", &[&topic])?;
    for attempts in 1..=2 {
        let update = "UPDATE outbox.events SET last_error = 'no' RETURNING attempts, next_attempt_at > now()";
        let row = transaction.query_one(update, &[])?;
        assert_eq!((row.get::<_, i32>(0), row.get::<_, bool>(1)), (attempts, true));
    }
    // A change of other columns does not count as an attempt.
    transaction.execute("UPDATE outbox.events SET next_attempt_at = now() + interval '1 second'", &[])?;
    let attempts: i32 = transaction.query_one("SELECT attempts FROM outbox.events", &[])?.get(0);
    assert_eq!(attempts, 2);
    transaction.commit()?;
    assert_eq!(db.drained(&topic)?.len(), 1);
    Ok(())
}
