//! Schemas are registered in the background, and events have the ids that the registry gives.

use event_outbox_lab::{OddRegistry, Oddity, Result, SchemaRegistry, wait};
use postgres::error::SqlState;

use super::{
    ORDER, WITHOUT_DEFAULT, bind, database_with, id, register, until_state, use_registry, wait_registered,
};
use crate::support::database::{DEADLINE, TestDatabase};
use crate::support::dump::dump_and_restore;

/// The id that a registry has for the first version of a subject.
fn id_in(registry: &SchemaRegistry, subject: &str) -> Result<Option<i64>> {
    Ok(registry.ask("GET", &format!("/subjects/{subject}/versions/1"), None)?.1["id"].as_i64())
}

/// The id at the beginning of a payload in the wire format.
fn id_of(payload: &[u8]) -> i64 {
    assert_eq!(payload[0], 0, "{payload:?}");
    i32::from_be_bytes(payload[1..5].try_into().expect("four bytes")).into()
}

#[test]
fn events_have_the_ids_of_the_registry() -> Result<()> {
    let registry = SchemaRegistry::shared()?;
    let mut db = database_with(&registry.url())?;
    let topic = db.own_topic("orders")?;
    let formats = [
        ("avro", "AVRO", ORDER, "00"),
        ("protobuf", "PROTOBUF", "syntax = \"proto3\"; message Order { int64 id = 1; }", "00"),
        (
            "json",
            "JSON",
            r#"{"$schema":"http://json-schema.org/draft-07/schema#","type":"object","properties":{"id":{"type":"integer"}}}"#,
            "00",
        ),
    ];
    for (number, (format, schema_type, definition, _)) in (0_usize..).zip(formats) {
        let subject = format!("{topic}-{format}");
        // So that the ids of the registry are not those of the database.
        registry.register(
            &format!("{subject}-other"),
            "AVRO",
            &format!("{{\"type\":\"fixed\",\"name\":\"F{format}\",\"size\":3}}"),
        )?;
        db.client.execute("SELECT outbox.register_schema($1, $2, $3)", &[&subject, &format, &definition])?;
        wait_registered(&mut db.client, &subject)?;
        bind(&mut db.client, &topic, &subject)?;
        db.client.execute("SELECT outbox.emit($1, '{\"id\": 7}'::jsonb)", &[&topic])?;
        let records = db.promptly(&topic, number + 1)?;
        let payload = records[number].value.as_deref().expect("a payload");
        let there = id_in(registry, &subject)?;
        assert_eq!(Some(id_of(payload)), there, "{schema_type}");
        assert_eq!(id(&mut db.client, &subject, 1)?.map(i64::from), there);
        db.client.execute("SELECT outbox.unbind_schema($1, NULL)", &[&topic])?;
    }
    Ok(())
}

#[test]
fn until_then_emit_says_what_it_waits_for() -> Result<()> {
    let registry =
        OddRegistry::start(Oddity::Answers(500, r#"{"error_code":50001,"message":"store failed"}"#.into()))?;
    let mut db = database_with(&registry.url())?;
    let topic = db.own_topic("orders")?;
    register(&mut db.client, &topic, ORDER)?;
    bind(&mut db.client, &topic, &topic)?;
    until_state(&mut db.client, &topic, 1, "waiting")?;
    wait::until_ok("the error to be shown", DEADLINE, || {
        let error = db
            .client
            .execute("SELECT outbox.emit($1, '{\"id\": 7}'::jsonb)", &[&topic])
            .expect_err("emitted");
        let error = error.as_db_error().expect("an error of the server").clone();
        assert_eq!(error.code(), &SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, "{error:?}");
        assert!(error.hint().is_some_and(|hint| hint.contains("wait_registered")), "{error:?}");
        Ok(error.detail().filter(|detail| detail.contains("store failed")).map(str::to_owned))
    })?;
    let waited: bool = db.client.query_one("SELECT outbox.wait_registered($1, '10 ms')", &[&topic])?.get(0);
    assert!(!waited);
    // It works again.
    registry.becomes(Oddity::Answers(200, r#"{"id":4711}"#.into()));
    wait_registered(&mut db.client, &topic)?;
    db.client.execute("SELECT outbox.emit($1, '{\"id\": 7}'::jsonb)", &[&topic])?;
    let records = db.promptly(&topic, 1)?;
    assert_eq!(id_of(records[0].value.as_deref().unwrap_or_default()), 4711);
    Ok(())
}

#[test]
fn a_refusal_is_shown_and_can_be_retried() -> Result<()> {
    let registry = SchemaRegistry::shared()?;
    let mut db = database_with(&registry.url())?;
    let subject = db.topic("orders");
    register(&mut db.client, &subject, ORDER)?;
    wait_registered(&mut db.client, &subject)?;
    registry.set_compatibility(&subject, "BACKWARD")?;
    register(&mut db.client, &subject, WITHOUT_DEFAULT)?;
    let said = until_state(&mut db.client, &subject, 2, "refused")?;
    assert!(said.contains("409"), "{said}");
    let error =
        db.client.execute("SELECT outbox.wait_registered($1)", &[&subject]).expect_err("it was refused");
    let error = error.as_db_error().expect("an error of the server");
    assert_eq!(error.code(), &SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, "{error:?}");
    assert!(error.detail().is_some_and(|detail| detail.contains("409")), "{error:?}");
    // What is there already stays.
    assert!(id(&mut db.client, &subject, 1)?.is_some());

    registry.set_compatibility(&subject, "NONE")?;
    let retried: i64 = db.client.query_one("SELECT outbox.retry_registration($1)", &[&subject])?.get(0);
    assert_eq!(retried, 1);
    until_state(&mut db.client, &subject, 2, "registered")?;
    assert_eq!(registry.versions(&subject)?, [1, 2]);
    Ok(())
}

#[test]
fn what_the_same_transaction_registers_cannot_be_waited_for() -> Result<()> {
    let mut db = database_with(&SchemaRegistry::shared()?.url())?;
    let subject = db.topic("orders");
    let mut transaction = db.client.transaction()?;
    transaction.execute("SELECT outbox.register_schema($1, 'avro', $2)", &[&subject, &ORDER])?;
    let error =
        transaction.execute("SELECT outbox.wait_registered($1)", &[&subject]).expect_err("it cannot be");
    assert_eq!(error.code(), Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE), "{error:?}");
    Ok(())
}

#[test]
fn another_registry_gives_ids_of_its_own() -> Result<()> {
    let first = SchemaRegistry::shared()?;
    let mut db = database_with(&first.url())?;
    let topic = db.own_topic("orders")?;
    register(&mut db.client, &topic, ORDER)?;
    wait_registered(&mut db.client, &topic)?;
    let second = OddRegistry::start(Oddity::Answers(200, r#"{"id":123456}"#.into()))?;
    use_registry(&mut db, &second.url())?;
    wait_registered(&mut db.client, &topic)?;
    assert_eq!(id(&mut db.client, &topic, 1)?, Some(123_456));
    bind(&mut db.client, &topic, &topic)?;
    db.client.execute("SELECT outbox.emit($1, '{\"id\": 7}'::jsonb)", &[&topic])?;
    assert_eq!(id_of(db.promptly(&topic, 1)?[0].value.as_deref().unwrap_or_default()), 123_456);
    Ok(())
}

/// Counts ids that are forgotten.
const FORGOTTEN: &str = "
CREATE TABLE public.forgotten (subject text);
CREATE FUNCTION public.note_forgotten() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO public.forgotten VALUES (OLD.subject); RETURN NULL; END $$;
CREATE TRIGGER note_forgotten AFTER UPDATE ON outbox.schema_registration FOR EACH ROW
    WHEN (OLD.id IS NOT NULL AND NEW.id IS NULL) EXECUTE FUNCTION public.note_forgotten()";

#[test]
fn a_registry_that_has_lost_its_schemas_gets_them_again() -> Result<()> {
    let mut registry = SchemaRegistry::start()?;
    let mut db = database_with(&registry.url())?;
    let (one, other) = (db.topic("one"), db.topic("other"));
    register(&mut db.client, &one, ORDER)?;
    register(&mut db.client, &other, WITHOUT_DEFAULT)?;
    wait_registered(&mut db.client, &one)?;
    wait_registered(&mut db.client, &other)?;
    let before = (id(&mut db.client, &one, 1)?, id(&mut db.client, &other, 1)?);
    db.client.batch_execute(FORGOTTEN)?;
    registry.stop()?;
    registry.resume()?;
    for size in 1..4 {
        let definition = format!("{{\"type\":\"fixed\",\"name\":\"Filler\",\"size\":{size}}}");
        registry.register(&format!("filler-{size}"), "AVRO", &definition)?;
    }
    db.client.query_one("SELECT outbox.restart_relay()", &[])?;
    wait::until_ok("other ids", DEADLINE, || {
        let now = (id(&mut db.client, &one, 1)?, id(&mut db.client, &other, 1)?);
        let both = now.0.is_some() && now.1.is_some() && now != before;
        Ok(both.then_some(()))
    })?;
    for subject in [&one, &other] {
        assert_eq!(id(&mut db.client, subject, 1)?.map(i64::from), id_in(&registry, subject)?, "{subject}");
        let forgotten = "SELECT count(*) FROM public.forgotten WHERE subject = $1";
        let times: i64 = db.client.query_one(forgotten, &[subject])?.get(0);
        assert_eq!(times, 1, "how often the id of {subject} was forgotten");
    }
    Ok(())
}

#[test]
fn a_restored_dump_registers_its_schemas_again() -> Result<()> {
    let registry = SchemaRegistry::shared()?;
    let mut db = database_with(&registry.url())?;
    let subject = db.topic("orders");
    register(&mut db.client, &subject, ORDER)?;
    wait_registered(&mut db.client, &subject)?;
    let id_there = id(&mut db.client, &subject, 1)?;
    let mut copy = TestDatabase::of(db.server.create_database()?)?;
    dump_and_restore(&db, &copy.database)?;
    let left: i64 = copy
        .client
        .query_one(
            "SELECT (SELECT count(*) FROM outbox.schema_registry_id) + (SELECT count(*) FROM outbox.schema_registration)",
            &[],
        )?
        .get(0);
    assert_eq!(left, 0);
    use_registry(&mut copy, &registry.url())?;
    wait_registered(&mut copy.client, &subject)?;
    assert_eq!(id(&mut copy.client, &subject, 1)?, id_there);
    Ok(())
}
