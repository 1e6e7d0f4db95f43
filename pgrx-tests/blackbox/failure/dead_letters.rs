//! An event that Kafka refuses to the last attempt becomes a dead letter, which can be redriven or discarded.

use event_outbox_lab::{Cluster, Consumer, Record, Result, wait};
use postgres::error::SqlState;
use postgres::fallible_iterator::FallibleIterator;
use postgres::{Client, GenericClient};
use serde_json::Value;
use uuid::Uuid;

use crate::support::broker::FaultyBroker;
use crate::support::database::{DEADLINE, PROMPTLY, TestDatabase, values};
use crate::support::dead_letters::{NOWHERE, dead, deadly_database, until_dead};
use crate::support::events::Event;
use crate::support::relay::until_drained;
use crate::support::server::DedicatedServer;

/// The columns that a dead letter keeps of its event.
const WHOLE: &str =
    "id, event_id, emitted_at, topic, partition, key, payload, headers, event_type, content_type, expires_at";

/// Emits an event and reports its refusals by hand, so that it has died when the transaction commits.
fn emit_dead(client: &mut Client, topic: &str, key: &str, name: &str) -> Result<Uuid> {
    let mut transaction = client.transaction()?;
    let id = Event::new(topic, name).key(key).emit(&mut transaction)?;
    for _ in 1..=3 {
        transaction.execute("UPDATE outbox.events SET last_error = 'no' WHERE event_id = $1", &[&id])?;
    }
    transaction.commit()?;
    Ok(id)
}

fn texts(client: &mut impl GenericClient, sql: &str) -> Result<Vec<String>> {
    Ok(client.query(sql, &[])?.iter().map(|row| row.get(0)).collect())
}

fn number(client: &mut Client, sql: &str) -> Result<i64> {
    Ok(client.query_one(sql, &[])?.get(0))
}

/// Waits for `count` notifications.
fn heard(client: &mut Client, count: usize) -> Result<Vec<Value>> {
    let mut heard = Vec::new();
    while heard.len() < count {
        let next = client.notifications().timeout_iter(PROMPTLY).next()?;
        let next = next.unwrap_or_else(|| panic!("nothing more after {heard:?}"));
        heard.push(serde_json::from_str(next.payload())?);
    }
    Ok(heard)
}

#[test]
fn each_kind_of_refusal_ends_there_with_all_of_the_event() -> Result<()> {
    let broker = FaultyBroker::take()?;
    broker.create_topic("dead.small", 1, &[("max.message.bytes", "2000")])?;
    let options = Cluster::options("dead")
        .set("event_outbox.kafka_properties", "topic.metadata.propagation.max.ms=100")
        .set("event_outbox.retry_backoff", "50ms");
    let dedicated = DedicatedServer::with(options, &broker.bootstrap_servers())?;
    let mut client = dedicated.connect()?;
    let mut listener = dedicated.connect()?;
    listener.batch_execute("LISTEN outbox_dead_letter")?;
    let mut transaction = client.transaction()?;
    let sql =
        "SELECT outbox.emit($1, to_jsonb(repeat('x', $2)), 'k', 'type', '{\"h\": [1, null]}', NULL, $3)";
    for (topic, length, partition) in
        [("dead.unknown", 1, None), ("dead.small", 10_000, None), ("dead.small", 1, Some(NOWHERE))]
    {
        transaction.query_one(sql, &[&topic, &length, &partition])?;
    }
    let emitted = texts(&mut transaction, &format!("SELECT ({WHOLE})::text FROM outbox.events ORDER BY id"))?;
    transaction.commit()?;

    until_drained(&mut client)?;
    let kept = texts(&mut client, &format!("SELECT ({WHOLE})::text FROM outbox.dead_letters ORDER BY id"))?;
    assert_eq!(kept, emitted);
    let rows = client.query(
        "SELECT error_class, attempts, error, event_id::text,
                emitted_at <= first_refused_at AND first_refused_at < last_refused_at AND last_refused_at <= now()
           FROM outbox.dead_letters ORDER BY id",
        &[],
    )?;
    let classes: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(classes, ["unknown_topic", "too_large", "unknown_partition"]);
    let notifications = heard(&mut listener, 3)?;
    for row in &rows {
        let (class, error, id): (&str, &str, &str) = (row.get(0), row.get(2), row.get(3));
        assert_eq!((row.get(1), row.get(4)), (3_i32, true), "{class}: {error}");
        let notification = notifications.iter().find(|one| one["event_id"] == id).expect("a notification");
        assert_eq!(
            (notification["error_class"].as_str(), notification["error"].as_str()),
            (Some(class), Some(error))
        );
        assert!(
            notification["topic"].as_str().is_some_and(|topic| topic.starts_with("dead.")),
            "{notification}"
        );
    }
    // The relay goes on, and none of the events arrived.
    Event::new("dead.small", "alive").key("k").emit(&mut client)?;
    until_drained(&mut client)?;
    let records = Consumer::read_all(&broker.bootstrap_servers(), &["dead.small"])?;
    assert_eq!(values(&records), [r#""alive""#]);
    Ok(())
}

/// A new column of events would be lost if the move to the dead letters forgot it.
#[test]
fn an_event_is_whole_as_a_dead_letter_and_sent_again() -> Result<()> {
    let mut db = TestDatabase::new()?;
    db.configure("event_outbox.enabled", "off")?;
    let columns = texts(
        &mut db.client,
        "SELECT attname::text FROM pg_attribute
          WHERE attrelid = 'outbox.events'::regclass AND attnum > 0 AND NOT attisdropped
            AND attname NOT IN ('paused', 'attempts', 'next_attempt_at', 'last_error', 'error_class', 'first_refused_at')
          ORDER BY attnum",
    )?;
    assert_eq!(columns.join(", "), WHOLE);

    db.client.execute(
        "INSERT INTO outbox.events (event_id, emitted_at, topic, partition, key, payload, headers, event_type, content_type)
         VALUES (gen_random_uuid(), '2020-01-01', 'whole', 3, 'k', 'p', '{\"b\": 1, \"a\": 2}', 'type', 'text/plain')",
        &[],
    )?;
    let whole = |table: &str| format!("SELECT ({WHOLE})::text FROM outbox.{table}");
    let event = texts(&mut db.client, &whole("events"))?;
    assert!(!event[0].contains(",,"), "a column is NULL: {event:?}");
    for _ in 1..=3 {
        db.client.execute("UPDATE outbox.events SET last_error = 'no'", &[])?;
    }
    assert_eq!(texts(&mut db.client, &whole("dead_letters"))?, event);
    db.client.execute("SELECT outbox.redrive(max => 1)", &[])?;
    let again = texts(&mut db.client, &whole("events"))?;
    // All columns but the id.
    let behind_id = |event: &[String]| event[0].split_once(',').map(|(_, rest)| rest.to_owned());
    assert_eq!(behind_id(&again), behind_id(&event));
    Ok(())
}

#[test]
fn a_copy_goes_to_the_dead_letter_topic() -> Result<()> {
    let (mut db, topic) = deadly_database()?;
    let elsewhere = db.topic("dead");
    db.broker.create_topic(&elsewhere, 1, &[("max.message.bytes", "5000")])?;
    db.configure("event_outbox.dead_letter_topic", &elsewhere)?;
    let headers = r#"{"one": "1", "list": ["a", null]}"#;
    let sql = "SELECT outbox.emit($1, '{\"a\": 1}', 'k', 'type', $2::text::jsonb, NULL, $3)";
    let id: Uuid = db.client.query_one(sql, &[&topic, &headers, &NOWHERE])?.get(0);
    let records = db.promptly(&elsewhere, 1)?;
    let Record { key, value, headers, .. } = &records[0];
    assert_eq!((key.as_deref(), value.as_deref()), (Some(&b"k"[..]), Some(&br#"{"a":1}"#[..])));
    let header = |name| records[0].header(name).map(str::to_owned);
    assert_eq!((header("ce_id"), header("ce_type")), (Some(id.to_string()), Some("type".into())));
    let lists: Vec<_> =
        headers.iter().filter(|(name, _)| name == "list").map(|(_, value)| value.as_deref()).collect();
    assert_eq!((lists, header("one")), (vec![Some(&b"a"[..]), None], Some("1".into())));
    assert_eq!(header("__outbox.errors.topic"), Some(topic.clone()));
    assert_eq!(header("__outbox.errors.class"), Some("unknown_partition".into()));
    assert_eq!(header("__outbox.errors.attempts"), Some("3".into()));
    let error = texts(&mut db.client, "SELECT error FROM outbox.dead_letters")?;
    assert_eq!(header("__outbox.errors.message"), error.first().cloned());

    // A copy that is too large for the dead letter topic dies there, and is not copied again.
    Event::new(&topic, "x".repeat(9000)).key("k").partition(NOWHERE).emit(&mut db.client)?;
    until_dead(&mut db.client, 3)?;
    assert_eq!(db.drained(&elsewhere)?.len(), 1);
    let topics = texts(&mut db.client, "SELECT topic FROM outbox.dead_letters ORDER BY dead_letter_id")?;
    assert_eq!(topics, [&*topic, &*topic, &*elsewhere]);
    Ok(())
}

#[test]
fn redriven_events_are_published_behind_the_others_and_in_order() -> Result<()> {
    let (mut db, topic) = deadly_database()?;
    let names: Vec<String> = (1..=300).map(|n| format!("dead {n}")).collect();
    let mut ids = Vec::new();
    for name in &names {
        // With one key they would die one after the other.
        ids.push(Event::new(&topic, name.as_str()).key(name).partition(NOWHERE).emit(&mut db.client)?);
    }
    // They die in any order; redriven, they keep the order of the outbox.
    assert_eq!(until_dead(&mut db.client, 300)?, names);
    Event::new(&topic, "meanwhile").key("dead 1").emit(&mut db.client)?;
    db.promptly(&topic, 1)?;
    db.client.batch_execute("UPDATE outbox.dead_letters SET partition = 0")?;
    assert_eq!(number(&mut db.client, "SELECT outbox.redrive(since => '-infinity')")?, 300);
    let records = db.promptly(&topic, 301)?;
    assert_eq!(records[0].value_text(), Some(r#""meanwhile""#));
    let arrived: Vec<_> =
        records[1..].iter().map(|record| record.header("ce_id").unwrap_or_default()).collect();
    assert_eq!(arrived, ids.iter().map(Uuid::to_string).collect::<Vec<_>>());
    assert_eq!(db.drained(&topic)?.len(), 301);
    assert_eq!(dead(&mut db.client)?.len(), 0);
    Ok(())
}

#[test]
fn a_redriven_event_has_all_its_attempts_again() -> Result<()> {
    let (mut db, topic) = deadly_database()?;
    let id = Event::new(&topic, "poison").key("k").partition(NOWHERE).emit(&mut db.client)?;
    until_dead(&mut db.client, 1)?;
    let first = "SELECT dead_letter_id FROM outbox.dead_letters";
    let before = number(&mut db.client, first)?;
    db.client.query_one("SELECT outbox.redrive($1)", &[&id])?;
    wait::until_ok("it to die again", DEADLINE, || {
        let found =
            db.client.query_opt("SELECT dead_letter_id, attempts, event_id FROM outbox.dead_letters", &[])?;
        Ok(found.filter(|row| {
            row.get::<_, i64>(0) > before && row.get::<_, i32>(1) == 3 && row.get::<_, Uuid>(2) == id
        }))
    })?;
    Ok(())
}

#[test]
fn the_dead_are_chosen_by_id_topic_time_and_number() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let (a, b) = (db.topic("a"), db.topic("b"));
    for name in ["a1", "a2", "a3"] {
        emit_dead(&mut db.client, &a, "k", name)?;
    }
    let since = texts(&mut db.client, "SELECT clock_timestamp()::text")?.remove(0);
    let b1 = emit_dead(&mut db.client, &b, "k", "b1")?;
    emit_dead(&mut db.client, &a, "k", "a4")?;
    emit_dead(&mut db.client, &b, "k", "b2")?;
    let client = &mut db.client;
    assert_eq!(number(client, &format!("SELECT outbox.discard('{b1}')"))?, 1);
    assert_eq!(dead(client)?, ["a1", "a2", "a3", "a4", "b2"]);
    assert_eq!(number(client, &format!("SELECT outbox.discard('{b1}')"))?, 0);
    assert_eq!(number(client, &format!("SELECT outbox.redrive(topic => '{a}', max => 1)"))?, 1);
    assert_eq!(number(client, &format!("SELECT outbox.redrive(topic => '{a}', since => '{since}')"))?, 1);
    assert_eq!(dead(client)?, ["a2", "a3", "b2"]);
    assert_eq!(number(client, "SELECT outbox.discard(max => 2)")?, 2);
    assert_eq!(number(client, "SELECT outbox.redrive(topic => 'nothing')")?, 0);
    assert_eq!(dead(client)?, ["b2"]);
    for function in ["redrive", "discard"] {
        let error = client.batch_execute(&format!("SELECT outbox.{function}()")).expect_err(function);
        assert_eq!(error.code(), Some(&SqlState::NULL_VALUE_NOT_ALLOWED), "{error:?}");
    }
    // A redrive that is rolled back has no effect.
    client.batch_execute("BEGIN; SELECT outbox.redrive(since => '-infinity'); ROLLBACK")?;
    assert_eq!(values(&db.promptly(&a, 2)?), [r#""a1""#, r#""a4""#]);
    assert_eq!(dead(&mut db.client)?, ["b2"]);
    Ok(())
}

#[test]
fn redrive_and_discard_need_their_own_right_and_no_other() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("granted");
    emit_dead(&mut db.client, &topic, "k", "1")?;
    emit_dead(&mut db.client, &topic, "k", "2")?;
    let [app, medic, digger] = ["app", "medic", "digger"].map(|role| format!("{role}_{}", db.database));
    for (role, function) in
        [(&app, "emit(text, jsonb, text, text, jsonb, uuid, int)"), (&medic, "redrive"), (&digger, "discard")]
    {
        db.client.batch_execute(&format!(
            "CREATE ROLE {role} LOGIN;
             GRANT USAGE ON SCHEMA outbox TO {role};
             GRANT EXECUTE ON FUNCTION outbox.{function} TO {role}"
        ))?;
    }
    for (role, allowed) in
        [(app, ""), (medic, "SELECT outbox.redrive(max => 1)"), (digger, "SELECT outbox.discard(max => 1)")]
    {
        let mut client = db.connect_as(&role)?;
        for sql in [
            "SELECT outbox.redrive(max => 1)",
            "SELECT outbox.discard(max => 1)",
            "SELECT outbox.select_dead_letters(NULL, NULL, NULL, 1)",
            "SELECT FROM outbox.dead_letters",
            "DELETE FROM outbox.dead_letters",
            "UPDATE outbox.dead_letters SET topic = 'x'",
            "SELECT nextval('outbox.dead_letters_dead_letter_id_seq')",
            "SELECT FROM outbox.intake",
            "SELECT FROM outbox.events",
        ] {
            match client.batch_execute(sql) {
                Ok(()) => assert_eq!(sql, allowed),
                Err(error) => {
                    assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{role}: {error:?}")
                }
            }
        }
    }
    assert_eq!(dead(&mut db.client)?.len(), 0);
    assert_eq!(db.drained_values(&topic)?, [r#""1""#]);
    Ok(())
}

/// An event that cannot be copied, for its size or its headers, must not stop the relay.
#[test]
fn an_event_without_a_possible_copy_dies_all_the_same() -> Result<()> {
    let (mut db, topic) = deadly_database()?;
    db.configure("event_outbox.dead_letter_topic", &db.topic("dead"))?;
    let sql =
        "INSERT INTO outbox.events (topic, partition, payload, headers) VALUES ($1, $2, $3, $4::text::json)";
    let largest = vec![b'x'; 1_000_000];
    db.client.execute(sql, &[&topic, &NOWHERE, &largest, &None::<&str>])?;
    db.client.execute(sql, &[&topic, &NOWHERE, &&b"nul"[..], &r#"{"h": "\u0000"}"#])?;
    db.client.execute(sql, &[&topic, &NOWHERE, &&b"huge"[..], &r#"{"h": 1e200000}"#])?;
    Event::new(&topic, "alive").key("k").emit(&mut db.client)?;
    assert_eq!(db.drained_values(&topic)?, [r#""alive""#]);
    assert_eq!(number(&mut db.client, "SELECT count(*) FROM outbox.dead_letters")?, 3);
    Ok(())
}
