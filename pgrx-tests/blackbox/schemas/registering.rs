//! Subjects and their versions.

use event_outbox_lab::Result;
use postgres::error::SqlState;

use crate::support::database::TestDatabase;
use crate::support::dump::dump_and_restore;
use crate::support::schemas::{ORDERS, bind, refused, register};

fn versions(db: &mut TestDatabase, subject: &str) -> Result<Vec<(i32, i32, bool)>> {
    let sql = "SELECT version, id, is_latest FROM outbox.schemas WHERE subject = $1 ORDER BY version";
    Ok(db.client.query(sql, &[&subject])?.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect())
}

#[test]
fn a_subject_has_versions() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    let first = register(&mut db.client, "s", "avro", "\"int\"")?;
    let second = register(&mut db.client, "s", "avro", "\"long\"")?;
    assert_eq!(register(&mut db.client, "s", "avro", "\"int\"")?, first);
    // The same definition has the same id everywhere.
    assert_eq!(register(&mut db.client, "other", "avro", "\"long\"")?, second);
    assert_eq!(versions(&mut db, "s")?, [(1, first, false), (2, second, true)]);

    let error = refused(&mut db.client, "SELECT outbox.register_schema('s', 'avro', '\"string\"')");
    assert_eq!(error.code(), &SqlState::INVALID_PARAMETER_VALUE);
    assert_eq!(error.message(), "schema is incompatible with version 2 of subject \"s\"");
    assert!(error.detail().unwrap_or_default().contains("long cannot be read as string"), "{error:?}");
    let other = refused(&mut db.client, "SELECT outbox.register_schema('s', 'json', '{}')");
    assert_eq!(other.message(), "subject \"s\" has schemas of format avro");
    db.client.batch_execute("SELECT outbox.register_schema('s', 'avro', '\"string\"', 'none')")?;
    let sql = "SELECT DISTINCT compatibility FROM outbox.schemas WHERE subject = 's'";
    assert_eq!(db.client.query_one(sql, &[])?.get::<_, &str>(0), "none");

    // A number is not used again, since somebody may remember it.
    let removed: i64 = db.client.query_one("SELECT outbox.unregister_schema('s', 3)", &[])?.get(0);
    assert_eq!(removed, 1);
    db.client.batch_execute("SELECT outbox.register_schema('s', 'avro', '\"bytes\"')")?;
    assert_eq!(versions(&mut db, "s")?.last().map(|last| last.0), Some(4));
    Ok(())
}

#[test]
fn all_older_versions_count_if_asked() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    db.client.batch_execute(
        r#"SELECT outbox.register_schema('s', 'avro', '"int"', 'backward_transitive');
           SELECT outbox.register_schema('s', 'avro', '["int", "string"]');
           SELECT outbox.register_schema('t', 'avro', '"int"', 'none');
           SELECT outbox.register_schema('t', 'avro', '"string"');"#,
    )?;
    let error = refused(
        &mut db.client,
        "SELECT outbox.register_schema('t', 'avro', '\"bytes\"', 'backward_transitive')",
    );
    assert!(error.message().contains("version 1"), "{error:?}");
    db.client.batch_execute("SELECT outbox.register_schema('t', 'avro', '\"bytes\"', 'backward')")?;
    Ok(())
}

#[test]
fn mistakes_are_explained() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    for (sql, detail) in [
        (
            "SELECT outbox.register_schema('s', 'json', E'{\n \"type\": }')",
            "At line 2 column 10: the definition is not JSON.",
        ),
        (
            "SELECT outbox.register_schema('s', 'json', '{\"$ref\": \"http://localhost:1/\"}')",
            "Retrieval is disabled",
        ),
        (
            "SELECT outbox.register_schema('s', 'json', '{\"$ref\": \"file:///etc/passwd\"}')",
            "Retrieval is disabled",
        ),
        ("SELECT outbox.register_schema('s', 'avro', '\"nope\"')", "nope"),
        (
            "SELECT outbox.register_schema('s', 'protobuf', 'syntax = \"proto3\"; message A { int32 = 1; }')",
            "At line 1 column",
        ),
        (
            "SELECT outbox.register_schema('s', 'protobuf', 'import \"etc/passwd\"; message A {}')",
            "not found",
        ),
        ("SELECT outbox.register_schema('s', 'xml', '')", "JSON Schema, Avro or Protobuf"),
        ("SELECT outbox.register_schema('s', 'json', '{}', 'sideways')", "which versions"),
        ("SELECT outbox.register_schema('', 'json', '{}')", "0 bytes"),
        ("SELECT outbox.register_schema(NULL, 'json', '{}')", "version of a subject"),
        ("SELECT outbox.bind_schema('a b', NULL, 's')", "No valid topic"),
        ("SELECT outbox.bind_schema('t', NULL, 's')", "registered"),
        ("SELECT outbox.bind_schema('t', NULL, NULL, 1)", "belong to a subject"),
        ("SELECT outbox.bind_schema('t', NULL, NULL, wire_format => 'thrift')", "\"thrift\""),
    ] {
        let error = refused(&mut db.client, sql);
        assert!(error.detail().unwrap_or_default().contains(detail), "{sql}: {error:?}");
    }
    register(&mut db.client, "p", "protobuf", ORDERS[2].1)?;
    let error = refused(&mut db.client, "SELECT outbox.bind_schema('t', NULL, 'p', message => 'Nope')");
    assert_eq!(error.code(), &SqlState::UNDEFINED_OBJECT);
    assert_eq!(versions(&mut db, "s")?, []);
    Ok(())
}

#[test]
fn what_is_bound_stays() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    register(&mut db.client, "s", "avro", "\"int\"")?;
    bind(&mut db.client, "t", "s", "plain")?;
    let error = refused(&mut db.client, "SELECT outbox.unregister_schema('s')");
    assert_eq!(error.code(), &SqlState::DEPENDENT_OBJECTS_STILL_EXIST);
    db.client.batch_execute("SELECT outbox.bind_schema('t', 'Typed', 's', 1)")?;
    refused(&mut db.client, "SELECT outbox.unregister_schema('s', 1)");
    let unbind = "SELECT outbox.unbind_schema('t') AND outbox.unbind_schema('t', 'Typed') AND NOT outbox.unbind_schema('t')";
    assert!(db.client.query_one(unbind, &[])?.get::<_, bool>(0));
    db.client.batch_execute("SELECT outbox.unregister_schema('s')")?;
    assert_eq!(versions(&mut db, "s")?, []);
    // What was written can still be decoded.
    let definitions = db.client.query("SELECT FROM outbox.schema_definition", &[])?;
    assert_eq!(definitions.len(), 1);
    Ok(())
}

#[test]
fn a_dump_keeps_schemas_ids_and_bindings() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    register(&mut db.client, "unused", "avro", "\"int\"")?;
    let id = register(&mut db.client, "s", "avro", "\"long\"")?;
    bind(&mut db.client, "t*", "s", "confluent")?;
    let copy = format!("{}_copy", db.database);
    db.client.batch_execute(&format!("CREATE DATABASE {copy} TEMPLATE template0"))?;
    db.client.batch_execute(&format!("ALTER DATABASE {copy} SET event_outbox.enabled = off"))?;
    dump_and_restore(&db, &copy)?;
    let mut restored = TestDatabase::of(copy)?;
    assert_eq!(versions(&mut restored, "s")?, [(1, id, true)]);
    restored.client.batch_execute("SELECT outbox.emit('topic', '5')")?;
    let payload: Vec<u8> = restored.client.query_one("SELECT payload FROM outbox.events", &[])?.get(0);
    assert_eq!(payload, [&[0][..], &id.to_be_bytes(), &[10]].concat());
    assert!(register(&mut restored.client, "new", "avro", "\"string\"")? > id);
    Ok(())
}
