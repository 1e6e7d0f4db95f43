//! Schemas of the registry that refer to other schemas of it.

use event_outbox_lab::{NewRecord, Producer, Result, SchemaRegistry, wait};
use serde_json::{Value, json};

use super::{database_with, id, shown, use_registry, wait_registered};
use crate::schemas::references;
use crate::support::database::{DEADLINE, TestDatabase};
use crate::support::dump::dump_and_restore;
use crate::support::subscriptions::subscribe;

#[test]
fn events_of_schemas_that_refer_to_others_are_decoded() -> Result<()> {
    let registry = SchemaRegistry::shared()?;
    let mut db = database_with(&registry.url())?;
    let producer = Producer::new(&db.broker.bootstrap_servers())?;
    for case in &references::CASES {
        let (name, format) = (case.format, case.format.to_uppercase());
        let topic = db.own_topic(name)?;
        let other = format!("{topic}-other");
        registry.register(&other, &format, case.other)?;
        let references = [(case.name, &*other, 1)];
        let id = registry.register_with(&topic, &format, case.definition, &references)?;
        // The first message of a file of Protobuf.
        let message: &[u8] = if name == "protobuf" { &[0] } else { &[] };
        let value = [&[0][..], &i32::try_from(id)?.to_be_bytes(), message, case.encoded].concat();
        producer.send(&NewRecord { topic: &topic, value: Some(&value), ..NewRecord::default() })?;
        producer.flush()?;
        subscribe(&mut db.client, name, &[&topic], "earliest")?;
        let received = wait::until_ok("the event", DEADLINE, || {
            Ok(db.client.query_opt("SELECT data, decode_error FROM inbox.receive($1)", &[&name])?)
        });
        let shown = shown(&mut db.client)?;
        let row = received.map_err(|error| error.context(shown))?;
        assert_eq!(row.get::<_, Option<String>>(1), None, "{name}");
        assert_eq!(row.get::<_, Option<Value>>(0), Some(serde_json::from_str(case.good)?), "{name}");
    }
    Ok(())
}

/// Registered here with what they refer to, and there with the numbers that the registry has.
#[test]
fn schemas_are_registered_with_what_they_refer_to() -> Result<()> {
    let registry = SchemaRegistry::shared()?;
    let mut db = database_with(&registry.url())?;
    let mut subjects = Vec::new();
    for case in &references::CASES {
        let subject = db.topic(case.format);
        let other = format!("{subject}-other");
        // So that the numbers there are not those here.
        registry.register(&other, &case.format.to_uppercase(), before(case.format))?;
        registry.set_compatibility(&other, "NONE")?;
        references::register_case(&mut db.client, case, &subject)?;
        wait_registered(&mut db.client, &subject)?;
        let there = registry.ask("GET", &format!("/subjects/{subject}/versions/1"), None)?.1;
        let expected = json!([{"name": case.name, "subject": other, "version": 2}]);
        assert_eq!(there["references"], expected, "{there}");
        assert_eq!(id(&mut db.client, &subject, 1)?.map(i64::from), there["id"].as_i64());
        subjects.push(subject);
    }
    // From a dump, all are registered again, under the same ids.
    let mut copy = TestDatabase::of(db.server.create_database()?)?;
    dump_and_restore(&db, &copy.database)?;
    use_registry(&mut copy, &registry.url())?;
    for subject in &subjects {
        wait_registered(&mut copy.client, subject)?;
        assert_eq!(id(&mut copy.client, subject, 1)?, id(&mut db.client, subject, 1)?);
    }
    Ok(())
}

/// An older version of what a case refers to.
fn before(format: &str) -> &'static str {
    match format {
        "avro" => r#"{"type":"record","name":"Address","namespace":"shop","fields":[]}"#,
        "json" => r#"{"type":"object","properties":{"zip":{"type":"integer"}}}"#,
        _ => "syntax = \"proto3\"; package shop; message Address { int32 zip = 2; }",
    }
}

#[test]
fn what_a_lost_schema_was_referred_to_by_is_registered_again() -> Result<()> {
    let mut registry = SchemaRegistry::start()?;
    let mut db = database_with(&registry.url())?;
    let case = &references::CASES[0];
    // Sorted before the other one.
    let subject = db.topic("orders");
    references::register_case(&mut db.client, case, &subject)?;
    wait_registered(&mut db.client, &subject)?;
    registry.stop()?;
    registry.resume()?;
    db.client.query_one("SELECT outbox.restart_relay()", &[])?;
    wait::until_ok("it to be there again", DEADLINE, || {
        Ok(registry.ask("GET", &format!("/subjects/{subject}/versions/1"), None)?.1["id"].as_i64())
    })?;
    wait_registered(&mut db.client, &subject)?;
    Ok(())
}
