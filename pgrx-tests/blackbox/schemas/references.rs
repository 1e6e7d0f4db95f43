//! Schemas that refer to others of the database.

use event_outbox_lab::Result;
use postgres::Client;
use postgres::error::SqlState;

use crate::support::database::TestDatabase;
use crate::support::dump::dump_and_restore;
use crate::support::schemas::{bind, refused, register};

/// A format, the schema that is referred to, by which name, the schema that refers, a good document, its encoding and a bad one.
pub struct Case {
    pub format: &'static str,
    pub other: &'static str,
    pub name: &'static str,
    pub definition: &'static str,
    pub good: &'static str,
    pub encoded: &'static [u8],
    pub bad: &'static str,
}

pub const CASES: [Case; 3] = [
    Case {
        format: "avro",
        other: r#"{"type":"record","name":"Address","namespace":"shop","fields":[{"name":"city","type":"string"}]}"#,
        name: "shop.Address",
        definition: r#"{"type":"record","name":"Order","namespace":"shop",
            "fields":[{"name":"from","type":"Address"},{"name":"to","type":"shop.Address"}]}"#,
        good: r#"{"from":{"city":"x"},"to":{"city":"y"}}"#,
        encoded: b"\x02x\x02y",
        bad: r#"{"from":{"city":"x"},"to":{}}"#,
    },
    Case {
        format: "json",
        other: r#"{"type":"object","required":["city"],"properties":{"city":{"type":"string"}}}"#,
        name: "address.json",
        definition: r#"{"type":"object","properties":{"to":{"$ref":"address.json"}}}"#,
        good: r#"{"to":{"city":"y"}}"#,
        encoded: br#"{"to":{"city":"y"}}"#,
        bad: r#"{"to":{}}"#,
    },
    Case {
        format: "protobuf",
        other: "syntax = \"proto3\"; package shop; message Address { string city = 1; }",
        name: "address.proto",
        definition: "syntax = \"proto3\"; import \"address.proto\"; message Order { int64 id = 1; shop.Address to = 2; }",
        good: r#"{"id":5,"to":{"city":"y"}}"#,
        encoded: b"\x08\x05\x12\x03\x0a\x01y",
        bad: r#"{"to":{"town":"y"}}"#,
    },
];

/// Registers both schemas of a case: the one that refers under `subject`, the other one under `subject` with `-other`.
pub fn register_case(client: &mut Client, case: &Case, subject: &str) -> Result<()> {
    let other = format!("{subject}-other");
    register(client, &other, case.format, case.other)?;
    let sql = "SELECT outbox.register_schema($1, $2, $3, refers_to => jsonb_build_array(
                   jsonb_build_object('name', $4::text, 'subject', $5::text)))";
    client.query_one(sql, &[&subject, &case.format, &case.definition, &case.name, &other])?;
    Ok(())
}

/// The payload of an event with this document, or the error.
fn payload(client: &mut Client, topic: &str, document: &str) -> Result<Vec<u8>, postgres::Error> {
    client.execute("SELECT outbox.emit($1, $2::text::jsonb)", &[&topic, &document])?;
    let sql = "SELECT payload FROM outbox.events WHERE topic = $1 ORDER BY id DESC LIMIT 1";
    Ok(client.query_one(sql, &[&topic])?.get(0))
}

#[test]
fn events_are_encoded_by_schemas_that_refer_to_others() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    for case in &CASES {
        register_case(&mut db.client, case, case.format)?;
        bind(&mut db.client, case.format, case.format, "plain")?;
        assert_eq!(payload(&mut db.client, case.format, case.good)?, case.encoded, "{}", case.format);
        let error = payload(&mut db.client, case.format, case.bad).expect_err(case.format);
        assert_eq!(error.code(), Some(&SqlState::CHECK_VIOLATION), "{error:?}");
        // It is shown as it was registered, and the same again is no new version.
        let shown = "SELECT definition, refers_to ->0->> 'subject', refers_to ->0->> 'version' FROM outbox.schemas WHERE subject = $1";
        let row = db.client.query_one(shown, &[&case.format])?;
        assert_eq!(row.get::<_, &str>(0), case.definition);
        assert_eq!((row.get::<_, String>(1), row.get::<_, &str>(2)), (format!("{}-other", case.format), "1"));
        register_case(&mut db.client, case, case.format)?;
        assert_eq!(db.client.query(shown, &[&case.format])?.len(), 1);
    }
    // A dump has all of it, and what refers can be registered anew from it.
    let copy = format!("{}_copy", db.database);
    db.client.batch_execute(&format!("CREATE DATABASE {copy} TEMPLATE template0"))?;
    db.client.batch_execute(&format!("ALTER DATABASE {copy} SET event_outbox.enabled = off"))?;
    dump_and_restore(&db, &copy)?;
    let mut restored = TestDatabase::of(copy)?;
    for case in &CASES {
        assert_eq!(payload(&mut restored.client, case.format, case.good)?, case.encoded, "{}", case.format);
        let sql =
            "SELECT outbox.register_schema('again-' || subject, format, definition, refers_to => refers_to)
                     FROM outbox.schemas WHERE subject = $1";
        restored.client.execute(sql, &[&case.format])?;
    }
    Ok(())
}

#[test]
fn a_reference_leads_to_further_ones_and_stays_with_its_version() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    db.client.batch_execute(
        r#"SELECT outbox.register_schema('city', 'json', '{"type": "string"}');
           SELECT outbox.register_schema('address', 'json', '{"properties": {"city": {"$ref": "city.json"}}}',
                                         refers_to => '[{"name": "city.json", "subject": "city"}]');
           SELECT outbox.register_schema('order', 'json', '{"properties": {"to": {"$ref": "address.json"}}}', 'none',
                                         refers_to => '[{"name": "address.json", "subject": "address", "version": 1}]');
           SELECT outbox.bind_schema('t', NULL, 'order', wire_format => 'plain');
           SELECT outbox.register_schema('city', 'json', '{"type": "integer"}', 'none')"#,
    )?;
    let (text, number) = (r#"{"to":{"city":"x"}}"#, r#"{"to":{"city":1}}"#);
    assert_eq!(payload(&mut db.client, "t", text)?, text.as_bytes());
    payload(&mut db.client, "t", number).expect_err("the old version counts");
    // It refers to the new one: a version of its own.
    db.client.batch_execute(
        r#"SELECT outbox.register_schema('order', 'json', '{"properties": {"to": {"properties": {"city": {"$ref": "city.json"}}}}}',
                                         refers_to => '[{"name": "city.json", "subject": "city"}]')"#,
    )?;
    assert_eq!(payload(&mut db.client, "t", number)?, number.as_bytes());
    // All are compared with what they refer to.
    let error = refused(
        &mut db.client,
        r#"SELECT outbox.register_schema('order', 'json', '{"properties": {"to": {"properties": {"city": {"$ref": "city.json"}}}}}',
                                         'backward', '[{"name": "city.json", "subject": "city", "version": 1}]')"#,
    );
    assert!(error.message().contains("incompatible with version 2"), "{error:?}");
    let error = refused(&mut db.client, "SELECT outbox.unregister_schema('city', 1)");
    assert_eq!(error.code(), &SqlState::DEPENDENT_OBJECTS_STILL_EXIST);
    refused(&mut db.client, "SELECT outbox.unregister_schema('city')");
    db.client.batch_execute(
        "SELECT outbox.unbind_schema('t');
         SELECT outbox.unregister_schema('order'); SELECT outbox.unregister_schema('address');
         SELECT outbox.unregister_schema('city')",
    )?;
    assert_eq!(db.client.query_one("SELECT count(*) FROM outbox.schemas", &[])?.get::<_, i64>(0), 0);
    Ok(())
}

#[test]
fn wrong_references_are_explained() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    db.client.batch_execute(
        r#"SELECT outbox.register_schema('a', 'json', '{}');
           SELECT outbox.register_schema('v', 'avro', '"int"')"#,
    )?;
    for (references, said) in [
        (r#"{"name": "a", "subject": "a"}"#, "invalid references"),
        (r#"[{"name": "a"}]"#, "invalid references"),
        (r#"[{"name": 1, "subject": "a"}]"#, "invalid references"),
        (r#"[{"name": "a", "subject": "a", "version": 1.5}]"#, "invalid references"),
        (r#"[{"name": "a", "subject": "a", "version": 99999999999}]"#, "invalid references"),
        ("[1]", "invalid references"),
        (r#"[{"name": "a", "subject": "nope"}]"#, "\"nope\" does not exist"),
        (r#"[{"name": "a", "subject": "a", "version": 2}]"#, "\"a\" has no version 2"),
        (r#"[{"name": "a", "subject": "v"}]"#, "of another format"),
        (r#"[{"name": "x", "subject": "a"}, {"name": "x", "subject": "v"}]"#, "another schema of this name"),
        (r#"[{"name": "b", "subject": "a"}]"#, "not present in a registry"),
    ] {
        let sql = format!(
            r#"SELECT outbox.register_schema('s', 'json', '{{"$ref": "nowhere.json"}}', refers_to => '{references}')"#
        );
        let error = refused(&mut db.client, &sql);
        let told = format!("{} {}", error.message(), error.detail().unwrap_or_default());
        assert!(told.contains(said), "{references}: {error:?}");
    }
    let many = "SELECT outbox.register_schema('s', 'json', '{}', refers_to => (SELECT jsonb_agg('{\"name\": \"a\", \"subject\": \"a\"}'::jsonb)
                                                FROM generate_series(1, 101)))";
    assert!(refused(&mut db.client, many).message().contains("invalid references"));
    // None is as if the argument was not there.
    db.client.batch_execute(
        "SELECT outbox.register_schema('s', 'json', '{\"type\": \"object\"}', refers_to => '[]')",
    )?;
    let sql = "SELECT refers_to IS NULL FROM outbox.schemas WHERE subject = 's'";
    assert!(db.client.query_one(sql, &[])?.get::<_, bool>(0));
    Ok(())
}
