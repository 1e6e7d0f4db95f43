//! What others have written with schemas of the registry is received decoded.

use event_outbox_lab::{NewRecord, OddRegistry, Oddity, Producer, Result, SchemaRegistry, wait};
use postgres::Client;
use serde_json::{Value, json};

use super::{ORDER, database_with, shown};
use crate::support::database::DEADLINE;
use crate::support::inbox::until_stored;
use crate::support::subscriptions::subscribe;

/// A payload in the wire format: an order with this id below 64, by the schema with this id.
fn order(schema: i64, id: u8) -> Vec<u8> {
    let schema = i32::try_from(schema).expect("a small id");
    [&[0][..], &schema.to_be_bytes(), &[id * 2]].concat()
}

fn produce(servers: &str, topic: &str, values: &[&[u8]]) -> Result<()> {
    let producer = Producer::new(servers)?;
    for value in values {
        // In one lane, which keeps their order.
        producer.send(&NewRecord { topic, key: Some(b"k"), value: Some(value), ..NewRecord::default() })?;
    }
    producer.flush()
}

/// Receives until there are this many events: document and error of each, in their order.
fn until_decoded(client: &mut Client, count: usize) -> Result<Vec<(Option<Value>, Option<String>)>> {
    let mut all = Vec::new();
    let waited = wait::until_ok(&format!("{count} events"), DEADLINE, || {
        let sql = "SELECT data, decode_error FROM inbox.receive('s', 100) ORDER BY position";
        all.extend(client.query(sql, &[])?.iter().map(|row| (row.get(0), row.get(1))));
        Ok((all.len() >= count).then_some(()))
    });
    let shown = shown(client)?;
    waited.map_err(|error| error.context(format!("{all:?} {shown}")))?;
    Ok(all)
}

#[test]
fn a_schema_is_fetched_when_it_is_first_met() -> Result<()> {
    let registry = SchemaRegistry::shared()?;
    let mut db = database_with(&registry.url())?;
    let topic = db.own_topic("orders")?;
    let id = registry.register(&topic, "AVRO", ORDER)?;
    subscribe(&mut db.client, "s", &[&topic], "earliest")?;
    produce(&db.broker.bootstrap_servers(), &topic, &[&order(id, 1), &order(id, 2), b"{\"id\": 3}"])?;
    until_stored(&mut db.client, 3)?;
    let decoded = until_decoded(&mut db.client, 3)?;
    let documents: Vec<_> = decoded.iter().map(|(data, _)| data.clone()).collect();
    assert_eq!(documents, [1, 2, 3].map(|id| Some(json!({"id": id}))), "{decoded:?}");
    assert!(decoded.iter().all(|(_, error)| error.is_none()), "{decoded:?}");
    Ok(())
}

/// What the registry does not have is an error of the event, and holds up none.
#[test]
fn an_id_that_nobody_gave_is_a_decode_error() -> Result<()> {
    let registry = SchemaRegistry::shared()?;
    let mut db = database_with(&registry.url())?;
    let topic = db.own_topic("orders")?;
    let id = registry.register(&topic, "AVRO", ORDER)?;
    subscribe(&mut db.client, "s", &[&topic], "earliest")?;
    let negative = [0, 255, 0, 0, 0, 1];
    produce(&db.broker.bootstrap_servers(), &topic, &[&order(999_999, 1), &negative, &order(id, 2)])?;
    let decoded = until_decoded(&mut db.client, 3)?;
    assert!(decoded[0].1.as_deref().is_some_and(|error| error.contains("999999")), "{decoded:?}");
    assert!(decoded[1].1.is_some(), "{decoded:?}");
    assert_eq!(decoded[2], (Some(json!({"id": 2})), None));
    Ok(())
}

/// While the registry does not answer, the events wait: nobody gets them undecoded.
#[test]
fn events_wait_while_the_registry_does_not_answer() -> Result<()> {
    let registry = OddRegistry::start(Oddity::Answers(503, String::new()))?;
    let mut db = database_with(&registry.url())?;
    let topic = db.own_topic("orders")?;
    subscribe(&mut db.client, "s", &[&topic], "earliest")?;
    produce(&db.broker.bootstrap_servers(), &topic, &[b"{\"id\": 1}", &order(7, 2), b"{\"id\": 3}"])?;
    until_stored(&mut db.client, 3)?;
    // Those before it can be received.
    let mut all = until_decoded(&mut db.client, 1)?;
    wait::until_ok("the schema to be asked for", DEADLINE, || {
        all.extend(until_decoded(&mut db.client, 0)?);
        let sql =
            "SELECT 1 FROM outbox.schema_fetch WHERE id = 7 AND state = 'waiting' AND error LIKE '%503%'";
        Ok(db.client.query_opt(sql, &[])?.map(|_| ()))
    })?;
    // The one behind it waits with it.
    assert_eq!(all, [(Some(json!({"id": 1})), None)]);
    let schema = json!({"schema": ORDER}).to_string();
    registry.becomes(Oddity::Answers(200, schema));
    all.extend(until_decoded(&mut db.client, 2)?);
    assert_eq!(all, [1, 2, 3].map(|id| (Some(json!({"id": id})), None)));
    Ok(())
}

/// Nor does an event that waits behind another one of its key come without its schema.
#[test]
fn a_parked_event_waits_for_its_schema() -> Result<()> {
    let registry = OddRegistry::start(Oddity::Answers(503, String::new()))?;
    let mut db = database_with(&registry.url())?;
    let topic = db.own_topic("orders")?;
    db.client
        .execute("SELECT inbox.subscribe('s', ARRAY[$1], 'earliest', max_attempts => 100)", &[&topic])?;
    produce(&db.broker.bootstrap_servers(), &topic, &[b"{\"id\": 1}", &order(7, 2), b"{\"id\": 3}"])?;
    until_stored(&mut db.client, 3)?;
    // The first one fails, so those behind it are parked.
    wait::until_ok("the first to be given back", DEADLINE, || {
        let sql = "SELECT inbox.nack('s', e.position, 'later', '1 s') FROM inbox.receive('s', 1) AS e";
        Ok(db.client.query_opt(sql, &[])?.map(|_| ()))
    })?;
    wait::until_ok("both others to be parked", DEADLINE, || {
        let all = db.client.query("SELECT data, decode_error FROM inbox.receive('s', 1)", &[])?;
        assert!(all.is_empty(), "{all:?}");
        let parked = db.client.query_one("SELECT count(*) FROM inbox.retry WHERE attempts = 0", &[])?;
        Ok((parked.get::<_, i64>(0) == 2).then_some(()))
    })?;
    let mut all = until_decoded(&mut db.client, 1)?;
    assert_eq!(all, [(Some(json!({"id": 1})), None)]);
    wait::until_ok("the schema to be asked for", DEADLINE, || {
        all.extend(until_decoded(&mut db.client, 0)?);
        let sql =
            "SELECT 1 FROM outbox.schema_fetch WHERE id = 7 AND state = 'waiting' AND error LIKE '%503%'";
        Ok(db.client.query_opt(sql, &[])?.map(|_| ()))
    })?;
    let is_ready: bool = db.client.query_one("CALL inbox.await('s', '0 s')", &[])?.get(0);
    assert!(!is_ready, "nothing can be received");
    assert_eq!(all.len(), 1, "{all:?}");
    registry.becomes(Oddity::Answers(200, json!({"schema": ORDER}).to_string()));
    all.extend(until_decoded(&mut db.client, 2)?);
    assert_eq!(all, [1, 2, 3].map(|id| (Some(json!({"id": id})), None)));
    Ok(())
}

/// A waiting session is woken when the schema has come.
#[test]
fn await_ends_when_the_schema_has_come() -> Result<()> {
    let registry = SchemaRegistry::shared()?;
    let mut db = database_with(&registry.url())?;
    let topic = db.own_topic("orders")?;
    let id = registry.register(&topic, "AVRO", ORDER)?;
    db.client.batch_execute("CREATE TABLE got (data jsonb, error text)")?;
    db.client.batch_execute(
        "CREATE FUNCTION take(events inbox.event[]) RETURNS void LANGUAGE sql AS
             'INSERT INTO got SELECT e.data, e.decode_error FROM unnest($1) AS e'",
    )?;
    subscribe(&mut db.client, "s", &[&topic], "earliest")?;
    db.client.batch_execute("SELECT inbox.handle('s', 'take(inbox.event[])')")?;
    produce(&db.broker.bootstrap_servers(), &topic, &[&order(id, 5)])?;
    let got = wait::until_ok("the handler", DEADLINE, || {
        Ok(db.client.query_opt("SELECT data, error FROM got", &[])?.map(|row| (row.get(0), row.get(1))))
    })?;
    assert_eq!(got, (Some(json!({"id": 5})), None::<String>));
    Ok(())
}
