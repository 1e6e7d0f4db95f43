//! Schemas and payloads of authors who mean harm: the server stays, and answers soon.

use std::time::{Duration, Instant};

use event_outbox_lab::Result;

use crate::support::database::TestDatabase;
use crate::support::schemas::refused;

/// How long a statement may take on a busy machine.
const SOON: Duration = Duration::from_secs(20);

#[test]
fn the_server_outlives_any_schema() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    let server: i32 = db.client.query_one("SELECT pg_backend_pid()", &[])?.get(0);
    let nested = |open: &str, depth: usize| format!("repeat('{open}', {depth})");
    for definition in [
        format!("'json', {} || '{{}}' || repeat('}}', 100000)", nested("{\"not\":", 100_000)),
        format!(
            "'avro', {} || '\"int\"' || repeat('}}', 100000)",
            nested("{\"type\":\"array\",\"items\":", 100_000)
        ),
        format!("'protobuf', {}", nested("message A {", 50_000)),
        "'json', repeat(' ', 100000000)".to_owned(),
        "'json', '{\"pattern\": \"((a{1000}){1000}){1000}\"}'".to_owned(),
        "'json', '{\"pattern\": \"' || repeat('(', 100000) || '\"}'".to_owned(),
    ] {
        let begin = Instant::now();
        refused(&mut db.client, &format!("SELECT outbox.register_schema('s', {definition})"));
        assert!(begin.elapsed() < SOON, "{definition} took {:?}", begin.elapsed());
    }
    // Alternatives that double at each level of the document.
    db.client.batch_execute(
        r##"SELECT outbox.register_schema('tree', 'json', '{"anyOf": [
                {"properties": {"a": {"$ref": "#"}}, "required": ["x"]},
                {"properties": {"a": {"$ref": "#"}}, "required": ["y"]}]}');
            SELECT outbox.bind_schema('tree', NULL, 'tree')"##,
    )?;
    let begin = Instant::now();
    refused(
        &mut db.client,
        "SELECT outbox.emit('tree', (repeat('{\"a\":', 60) || '1' || repeat('}', 60))::jsonb)",
    );
    assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
    // A schema that refers to itself, for the same value.
    let circle = r##"SELECT outbox.register_schema('circle', 'json', '{"allOf": [{"$ref": "#"}]}');
                    SELECT outbox.bind_schema('circle', NULL, 'circle'); SELECT outbox.emit('circle', '1')"##;
    let _ = db.client.batch_execute(circle);
    let same: i32 = db.client.query_one("SELECT pg_backend_pid()", &[])?.get(0);
    assert_eq!(same, server);
    Ok(())
}

/// A check that takes long ends when its session is told to.
#[test]
fn a_long_check_can_be_cancelled() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    // The alternatives are tried for each element, and a long document may have many steps.
    db.client.batch_execute(
        r##"SELECT outbox.register_schema('long', 'json', format('{"items": {"anyOf": [%s {"const": 1}]}}',
                                                                 repeat('{"maximum": 0},', 200)));
            SELECT outbox.bind_schema('long', NULL, 'long');
            SET event_outbox.max_event_bytes = '8MB';
            CREATE TEMP TABLE long AS SELECT jsonb_agg(1) AS document FROM generate_series(1, 2000000)"##,
    )?;
    let emit = "SELECT outbox.emit('long', document) FROM long";
    db.client.batch_execute("SET statement_timeout = '300 ms'")?;
    let begin = Instant::now();
    let error = db.client.batch_execute(emit).expect_err("it takes long");
    let elapsed = begin.elapsed();
    assert_eq!(error.code(), Some(&postgres::error::SqlState::QUERY_CANCELED), "{error:?}");
    assert!(elapsed < Duration::from_millis(1500), "{elapsed:?}");
    // The session goes on, and checks as before.
    db.client.batch_execute("SET statement_timeout = 0; SELECT outbox.emit('long', '[1, -1]')")?;
    let error = refused(&mut db.client, "SELECT outbox.emit('long', '[2]')");
    assert!(error.message().contains("violates schema"), "{error:?}");
    Ok(())
}

/// A definition that was put into the table by hand, or by a registry, is no worse.
#[test]
fn a_definition_that_cannot_be_used_is_named() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    db.client.batch_execute(
        "SELECT outbox.register_schema('s', 'avro', '\"int\"'); SELECT outbox.bind_schema('t', NULL, 's');
         UPDATE outbox.schema_definition SET definition = '\"nope\"'",
    )?;
    let error = refused(&mut db.client, "SELECT outbox.emit('t', '1')");
    assert!(error.detail().unwrap_or_default().contains("schema cannot be used"), "{error:?}");
    Ok(())
}
