//! The settings that shape the record: `event_outbox.source` and `event_outbox.envelope`.

use event_outbox_lab::{Cluster, Consumer, Result};
use postgres::error::SqlState;
use serde_json::{Value, json};

use crate::support::database::{PROMPTLY, TestDatabase};

#[test]
fn the_source_is_a_setting_of_the_database() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("source");
    db.configure("event_outbox.source", "https://shop.example/größe")?;
    db.client.execute("SELECT outbox.emit($1, '1')", &[&topic])?;
    let records = db.drained(&topic)?;
    assert_eq!(records[0].header("ce_source"), Some("https://shop.example/größe"));
    Ok(())
}

#[test]
fn the_default_source_names_the_cluster() -> Result<()> {
    let db = TestDatabase::new()?;
    let server = Cluster::options("named")
        .set("cluster_name", "shop eu")
        .set("event_outbox.bootstrap_servers", db.broker.bootstrap_servers())
        .start()?;
    server.connect("postgres")?.batch_execute("CREATE DATABASE \"my shop\"")?;
    let mut client = server.connect("my shop")?;
    let topic = db.topic("named");
    client.batch_execute("CREATE EXTENSION event_outbox")?;
    client.execute("SELECT outbox.emit($1, '1')", &[&topic])?;
    let mut consumer = Consumer::new(&db.broker.bootstrap_servers(), &[&topic])?;
    let records = consumer.read_until(1, PROMPTLY)?;
    assert_eq!(records[0].header("ce_source"), Some("postgresql://shop%20eu/my%20shop"));
    Ok(())
}

#[test]
fn without_an_envelope_only_the_authors_headers_are_sent() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("bare");
    db.configure("event_outbox.envelope", "none")?;
    db.client.execute("SELECT outbox.emit($1, '1', key => 'k')", &[&topic])?;
    db.client
        .execute("SELECT outbox.emit($1, '2', key => 'k', headers => '{\"trace\": \"7f\"}')", &[&topic])?;
    let records = db.drained(&topic)?;
    assert_eq!(records.len(), 2);
    assert_eq!(records[0].headers, []);
    assert_eq!(records[1].headers, [("trace".to_string(), Some(b"7f".to_vec()))]);
    assert_eq!((records[1].key_text(), records[1].value_text()), (Some("k"), Some("2")));
    Ok(())
}

#[test]
fn in_structured_mode_the_value_is_the_cloud_event() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("structured");
    db.alter_database("SET event_outbox.envelope = 'cloudevents_structured'")?;
    db.configure("event_outbox.source", "https://shop.example")?;
    db.client.execute(
        "SELECT outbox.emit($1, '{\"n\": 1.10}', 'k', 'Placed', '{\"x\": \"1\"}', '00000000-0000-7000-8000-000000000001'),
                outbox.emit_bytes($1, '\\xff00', 'k', content_type => 'application/x-protobuf'),
                outbox.emit_bytes($1, '{', 'k', content_type => 'application/json'),
                outbox.emit($1, NULL, 'k')",
        &[&topic],
    )?;
    let records = db.drained(&topic)?;
    let document =
        |at: usize| -> Result<Value> { Ok(serde_json::from_slice(records[at].value.as_deref().unwrap())?) };
    let first = document(0)?;
    let time = first["time"].as_str().unwrap();
    assert_eq!(
        records[0].value_text(),
        Some(&*format!(
            "{{\"specversion\":\"1.0\",\"id\":\"00000000-0000-7000-8000-000000000001\",\"source\":\"https://shop.example\",\
             \"type\":\"Placed\",\"time\":\"{time}\",\"datacontenttype\":\"application/json\",\"data\":{{\"n\":1.10}}}}"
        ))
    );
    let header = |name: &str, value: &str| (name.to_string(), Some(value.as_bytes().to_vec()));
    let content_type = header("content-type", "application/cloudevents+json; charset=UTF-8");
    assert_eq!(records[0].headers, [content_type.clone(), header("x", "1")]);
    assert_eq!(records[0].key_text(), Some("k"));
    assert_eq!(document(1)?["data_base64"], "/wA=");
    assert_eq!(
        (&document(1)?["type"], &document(1)?["datacontenttype"]),
        (&json!(topic), &json!("application/x-protobuf"))
    );
    assert_eq!(document(2)?["data_base64"], "ew==");
    assert_eq!(records[1].headers, [content_type]);
    // Only a record without a value deletes anything.
    assert_eq!((records[3].value.as_deref(), records[3].header("ce_type")), (None, Some(&*topic)));
    Ok(())
}

/// The event is within its limit, but no request can carry its document.
#[test]
fn an_event_too_large_for_its_document_dies_alone() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("overgrown");
    db.alter_database("SET event_outbox.relay_memory = '512MB'")?;
    db.alter_database("SET event_outbox.max_event_bytes = 100000000")?;
    db.alter_database("SET event_outbox.max_attempts = 1")?;
    db.configure("event_outbox.envelope", "cloudevents_structured")?;
    db.client = db.connect()?;
    db.client.execute(
        "SELECT outbox.emit_bytes($1, convert_to(repeat('x', 90000000), 'UTF8'), 'k'), outbox.emit($1, '1', 'k')",
        &[&topic],
    )?;
    let values = db.drained_values(&topic)?;
    assert_eq!(values.len(), 1);
    assert!(values[0].ends_with("\"data\":1}"), "{}", values[0]);
    let class: String = db.client.query_one("SELECT error_class FROM outbox.dead_letters", &[])?.get(0);
    assert_eq!(class, "too_large");
    Ok(())
}

#[test]
fn the_layout_of_debezium_has_its_id_and_the_chosen_fields() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("router");
    db.alter_database("SET event_outbox.envelope = 'debezium'")?;
    let emit = "SELECT outbox.emit($1, '{\"n\": 1}', 'k', 'Placed', '{\"id\": \"mine\", \"x\": null}',
                                   '00000000-0000-7000-8000-000000000001')";
    db.client.execute(emit, &[&topic])?;
    db.drained(&topic)?;
    db.configure("event_outbox.debezium_additional_fields", "type:header:eventType,aggregateid:header")?;
    db.client.execute(emit, &[&topic])?;
    let records = db.drained(&topic)?;
    let header = |name: &str, value: &str| (name.to_string(), Some(value.as_bytes().to_vec()));
    let (id, own) = (header("id", "00000000-0000-7000-8000-000000000001"), ("x".to_string(), None));
    assert_eq!(records[0].headers, [id.clone(), own.clone()]);
    assert_eq!(records[1].headers, [id, header("eventType", "Placed"), header("aggregateid", "k"), own]);
    assert_eq!((records[1].key_text(), records[1].value_text()), (Some("k"), Some("{\"n\":1}")));
    for wrong in ["type:envelope", "payload:header", "type", "x"] {
        let error = db
            .client
            .batch_execute(&format!("SET event_outbox.debezium_additional_fields = '{wrong}'"))
            .unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::INVALID_PARAMETER_VALUE), "{wrong}");
    }
    Ok(())
}
