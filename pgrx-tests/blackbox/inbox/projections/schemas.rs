//! Topics whose values are encoded by a schema are projected as JSON is.

use event_outbox_lab::producer::NewRecord;
use event_outbox_lab::{OddRegistry, Oddity, Result, SchemaRegistry};
use serde_json::json;

use super::{Projected, settle};
use crate::support::schemas::{ORDERS, bind_orders};

const ORDERS_TABLE: &str =
    "CREATE TABLE orders (key text PRIMARY KEY, id bigint, note text, amounts float8[])";

/// An Avro schema of a record with a long.
const NUMBERED: &str = r#"{"type":"record","name":"Numbered","fields":[{"name":"v","type":"long"}]}"#;

/// A record with this number below 64, by the schema with this id.
fn numbered(schema: i32, number: u8) -> Vec<u8> {
    [&[0][..], &schema.to_be_bytes(), &[number * 2]].concat()
}

fn send(p: &Projected, partition: i32, key: &str, value: &[u8]) -> Result<()> {
    let (key, value) = (Some(key.as_bytes()), Some(value));
    p.producer.send(&NewRecord { topic: &p.topic, partition, key, value, ..NewRecord::default() })
}

#[test]
fn each_format_and_framing_becomes_rows() -> Result<()> {
    for (format, _) in ORDERS {
        for wire_format in ["confluent", "plain"] {
            let mut p = Projected::new(1)?;
            p.sql(ORDERS_TABLE)?;
            let topic = p.topic.clone();
            bind_orders(&mut p.db, &topic, format, wire_format)?;
            let documents = [
                json!({"id": 9_007_199_254_740_993_i64, "note": "ü\n", "amounts": [0.5, 2.5]}),
                json!({"id": 2, "amounts": []}),
                json!({"id": 3, "note": "gone", "amounts": []}),
            ];
            for (key, document) in ["a", "b", "c"].iter().zip(&documents) {
                let emit = "SELECT outbox.emit($1, $2::text::jsonb, $3)";
                p.db.client.execute(emit, &[&topic, &document.to_string(), key])?;
            }
            p.db.client.execute("SELECT outbox.emit($1, NULL::jsonb, 'c')", &[&topic])?;
            let is_published: bool =
                p.db.client.query_one("SELECT outbox.wait_published('30 s')", &[])?.get(0);
            assert!(is_published);
            p.project("orders", "")?;
            p.settle()?;
            let rows = p.rows("SELECT key, id, note, amounts FROM orders ORDER BY key")?;
            assert_eq!(
                rows,
                ["(a,9007199254740993,\"ü\n\",\"{0.5,2.5}\")", "(b,2,,{})"],
                "{format} {wire_format}"
            );
            assert_eq!(p.rows("SELECT last_error FROM inbox.dead_letters")?, Vec::<String>::new());
        }
    }
    Ok(())
}

/// The binding of a type counts for its records alone.
#[test]
fn a_binding_by_type_is_followed() -> Result<()> {
    let mut p = Projected::new(1)?;
    p.sql("CREATE TABLE typed (key text PRIMARY KEY, v bigint)")?;
    p.db.client.execute("SELECT outbox.register_schema('numbered', 'avro', $1)", &[&NUMBERED])?;
    let bind = "SELECT outbox.bind_schema($1, $2, $3, wire_format => 'plain')";
    p.db.client.execute(bind, &[&p.topic, &Some("Numbered"), &Some("numbered")])?;
    p.db.client.execute(bind, &[&p.topic, &None::<&str>, &None::<&str>])?;
    let headers: &[(&str, Option<&[u8]>)] = &[("ce_type", Some(b"Numbered"))];
    let of_type = NewRecord { topic: &p.topic, key: Some(b"a"), value: Some(&[14]), ..NewRecord::default() };
    p.producer.send(&NewRecord { headers, ..of_type })?;
    send(&p, 0, "b", b"{\"v\": 8}")?;
    p.producer.flush()?;
    p.project("typed", "")?;
    p.settle()?;
    assert_eq!(p.rows("SELECT key, v FROM typed ORDER BY key")?, ["(a,7)", "(b,8)"]);
    Ok(())
}

/// The reason of a refusal is the error of the dead letter, and the good value before it counts.
#[test]
fn what_cannot_be_decoded_is_a_dead_letter_that_says_why() -> Result<()> {
    let mut p = Projected::new(1)?;
    p.sql("CREATE TABLE numbered (key text PRIMARY KEY, v bigint)")?;
    let sql = "SELECT outbox.register_schema('numbered', 'avro', $1)";
    let id: i32 = p.db.client.query_one(sql, &[&NUMBERED])?.get(0);
    let bad: [(&str, Vec<u8>, &str); 3] = [
        (
            "a",
            numbered(id, 9)[..5].to_vec(),
            "the value cannot be decoded: /v: the bytes end in it, or it is no number",
        ),
        ("b", numbered(999_999, 9), "the value cannot be decoded: the schema with id 999999 is not known"),
        ("c", vec![0, 1], "the value: it is not a JSON object"),
    ];
    for (key, value, _) in &bad {
        send(&p, 0, key, &numbered(id, 1))?;
        send(&p, 0, key, value)?;
    }
    // One that a later value of its key makes meaningless is none.
    send(&p, 0, "d", &numbered(999_999, 9))?;
    send(&p, 0, "d", &numbered(id, 2))?;
    p.producer.flush()?;
    p.project("numbered", "")?;
    p.settle()?;
    assert_eq!(p.rows("SELECT key, v FROM numbered ORDER BY key")?, ["(a,1)", "(b,1)", "(c,1)", "(d,2)"]);
    let sql = "SELECT convert_from(key, 'UTF8'), last_error FROM inbox.dead_letters ORDER BY position";
    let found = p.db.client.query(sql, &[])?;
    let found: Vec<(String, String)> = found.iter().map(|row| (row.get(0), row.get(1))).collect();
    let expected: Vec<_> =
        bad.iter().map(|(key, _, error)| ((*key).to_owned(), (*error).to_owned())).collect();
    assert_eq!(found, expected);
    Ok(())
}

/// While the registry does not answer, nothing is skipped and nothing dies: the partition waits, says for what, and goes on.
#[test]
fn a_record_waits_for_its_schema_as_long_as_it_takes() -> Result<()> {
    let registry = OddRegistry::start(Oddity::Answers(503, String::new()))?;
    let mut p = Projected::new(2)?;
    p.sql("CREATE TABLE numbered (key text PRIMARY KEY, v bigint)")?;
    // The process that runs already follows the setting.
    p.project("numbered", "")?;
    p.until("SELECT running FROM inbox.projections", &["(t)"])?;
    p.db.configure("event_outbox.schema_registry_url", &registry.url())?;
    p.db.client = p.db.connect()?;
    send(&p, 0, "a", b"{\"v\": 1}")?;
    send(&p, 0, "b", &numbered(7, 2))?;
    send(&p, 0, "c", b"{\"v\": 3}")?;
    send(&p, 1, "d", b"{\"v\": 4}")?;
    p.producer.flush()?;
    p.until("SELECT state FROM inbox.projections", &["(failing)"])?;
    let error = p.rows("SELECT last_error, what_to_do FROM inbox.projections")?;
    assert!(error[0].contains("offset 1 of partition 0") && error[0].contains("status 503"), "{error:?}");
    // Longer than a receiver would wait.
    p.sql("UPDATE outbox.schema_fetch SET wanted_at = now() - interval '1 hour'")?;
    send(&p, 1, "e", b"{\"v\": 5}")?;
    p.producer.flush()?;
    p.until("SELECT key, v FROM numbered ORDER BY key", &["(a,1)", "(d,4)", "(e,5)"])?;
    let checked = p.rows("SELECT verdict, finding FROM inbox.check() WHERE subject = 'projection'")?;
    assert!(checked[0].contains("error") && checked[0].contains("503"), "{checked:?}");
    registry.becomes(Oddity::Answers(200, json!({"schema": NUMBERED}).to_string()));
    p.settle()?;
    assert_eq!(
        p.rows("SELECT key, v FROM numbered ORDER BY key")?,
        ["(a,1)", "(b,2)", "(c,3)", "(d,4)", "(e,5)"]
    );
    p.until("SELECT state, failing_since FROM inbox.projections", &["(following,)"])?;
    assert_eq!(p.rows("SELECT count(*) FROM inbox.dead_letters")?, ["(0)"]);
    Ok(())
}

/// What a registry does not have is no outage.
#[test]
fn schemas_of_a_registry_are_fetched_or_missing() -> Result<()> {
    let registry = SchemaRegistry::shared()?;
    let mut p = Projected::new(1)?;
    p.db.configure("event_outbox.schema_registry_url", &registry.url())?;
    p.db.client = p.db.connect()?;
    p.sql("CREATE TABLE numbered (key text PRIMARY KEY, v bigint)")?;
    let id = i32::try_from(registry.register(&p.topic, "AVRO", NUMBERED)?)?;
    send(&p, 0, "a", &numbered(id, 1))?;
    send(&p, 0, "b", &numbered(999_999, 2))?;
    send(&p, 0, "c", &numbered(id, 3))?;
    p.producer.flush()?;
    p.project("numbered", "")?;
    p.settle()?;
    assert_eq!(p.rows("SELECT key, v FROM numbered ORDER BY key")?, ["(a,1)", "(c,3)"]);
    let dead = p.rows("SELECT last_error FROM inbox.dead_letters")?;
    assert!(dead.len() == 1 && dead[0].contains("schema 999999"), "{dead:?}");
    Ok(())
}

/// A captured table whose events have a contract is mirrored, too.
#[test]
fn captured_changes_are_decoded() -> Result<()> {
    let mut p = Projected::new(1)?;
    p.sql(
        "CREATE TABLE source (id int PRIMARY KEY, v text); CREATE TABLE copy (id int PRIMARY KEY, v text);
         SELECT outbox.register_schema('changes', 'json', '{\"type\": \"object\", \"required\": [\"key\"]}')",
    )?;
    let topic = p.topic.clone();
    p.db.client.execute("SELECT outbox.bind_schema($1, NULL, 'changes')", &[&topic])?;
    p.db.client.execute("SELECT outbox.capture('source', 'fat', topic => $1)", &[&topic])?;
    p.project("copy", ", format => 'capture'")?;
    p.sql(
        "INSERT INTO source VALUES (1, 'a'), (2, 'b'), (3, 'c'); UPDATE source SET v = 'bb' WHERE id = 2;
           DELETE FROM source WHERE id = 3",
    )?;
    assert_eq!(p.rows("SELECT outbox.wait_published('30 s')")?, ["(t)"]);
    settle(&mut p.db.client, "p")?;
    assert_eq!(p.rows("SELECT * FROM copy ORDER BY id")?, ["(1,a)", "(2,bb)"]);
    Ok(())
}
