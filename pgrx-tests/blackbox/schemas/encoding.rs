//! Payloads of bound topics: by each way into the outbox, encoded or refused.

use event_outbox_lab::Result;
use postgres::error::SqlState;

use crate::support::database::TestDatabase;
use crate::support::schemas::{ORDERS, bind_orders, refused};

const GOOD: &str = r#"{"id": 9007199254740993, "note": "ü", "amounts": [0.1, 2]}"#;

fn stored(db: &mut TestDatabase) -> Result<(Vec<u8>, Option<String>)> {
    let sql = "SELECT payload, content_type FROM outbox.events ORDER BY id DESC LIMIT 1";
    let row = db.client.query_one(sql, &[])?;
    Ok((row.get(0), row.get(1)))
}

#[test]
fn a_document_is_encoded_by_its_schema() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    for (format, _) in ORDERS {
        for (wire_format, prefix) in [("confluent", true), ("plain", false)] {
            let topic = format!("{format}-{wire_format}");
            let id = bind_orders(&mut db, &topic, format, wire_format)?;
            let sql = "SELECT outbox.emit($1, $2::text::jsonb, 'k')";
            db.client.execute(sql, &[&topic, &GOOD])?;
            let (payload, content_type) = stored(&mut db)?;
            let head = [&[0][..], &id.to_be_bytes()].concat();
            assert_eq!(payload.starts_with(&head), prefix, "{topic}: {payload:?}");
            assert_eq!(content_type.as_deref(), Some(&*format!("application/{format}")), "{topic}");
            // A tombstone has nothing to check.
            db.client.execute("SELECT outbox.emit($1, NULL, 'k')", &[&topic])?;
            assert_eq!(db.client.query("SELECT FROM outbox.events WHERE payload IS NULL", &[])?.len(), 1);
            db.client.batch_execute("DELETE FROM outbox.events WHERE payload IS NULL")?;
        }
    }
    let sql = "SELECT convert_from(payload, 'UTF8') FROM outbox.events WHERE topic = 'json-plain'";
    let document: String = db.client.query_one(sql, &[])?.get(0);
    assert_eq!(document, r#"{"id":9007199254740993,"note":"ü","amounts":[0.1,2]}"#);
    Ok(())
}

#[test]
fn what_breaks_the_schema_is_refused_where_its_author_sees_it() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    for (format, _) in ORDERS {
        bind_orders(&mut db, format, format, "confluent")?;
        let bad = r#"{"id": 1, "amounts": [1, "two"]}"#;
        let error = refused(&mut db.client, &format!("SELECT outbox.emit('{format}', '{bad}')"));
        assert_eq!(error.code(), &SqlState::CHECK_VIOLATION);
        assert_eq!(error.message(), format!("event payload violates schema \"{format}-orders\" version 1"));
        assert!(error.detail().unwrap_or_default().starts_with("At /amounts/1: "), "{error:?}");
        let unknown =
            refused(&mut db.client, &format!(r#"SELECT outbox.emit('{format}', '{{"id": 1, "x": 1}}')"#));
        assert_eq!(unknown.code(), &SqlState::CHECK_VIOLATION, "{format}");
        let deep = format!("SELECT outbox.emit('{format}', (repeat('[', 1000) || repeat(']', 1000))::jsonb)");
        assert_eq!(refused(&mut db.client, &deep).code(), &SqlState::CHECK_VIOLATION, "{format}");
        // An attempt of a message that may be invalid.
        let sql = "SELECT status, error FROM outbox.try_emit($1, $1, $2::text)";
        let row = db.client.query_one(sql, &[&format, &bad])?;
        assert_eq!(row.get::<_, &str>(0), "invalid");
        assert!(row.get::<_, &str>(1).contains("violates schema"));
    }
    for format in ["avro", "protobuf"] {
        let sql = format!(r#"SELECT outbox.emit('{format}', '{{"id": 1, "amounts": [9007199254740993]}}')"#);
        let error = refused(&mut db.client, &sql);
        assert!(error.detail().unwrap_or_default().contains("without loss"), "{error:?}");
    }
    assert!(db.client.query("SELECT FROM outbox.events", &[])?.is_empty());
    Ok(())
}

/// Bytes, and rows that are inserted by hand: JSON by its content type is encoded, all else must be encoded already.
#[test]
fn every_way_into_the_outbox_leads_past_the_schema() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    for (format, _) in ORDERS {
        for wire_format in ["confluent", "plain"] {
            let topic = format!("{format}-{wire_format}");
            bind_orders(&mut db, &topic, format, wire_format)?;
            db.client.execute("SELECT outbox.emit($1, $2::text::jsonb, 'k')", &[&topic, &GOOD])?;
            let (encoded, content_type) = stored(&mut db)?;
            let emit = "SELECT outbox.emit_bytes($1, $2, content_type => $3)";
            let insert = "INSERT INTO outbox.events (topic, payload, content_type) VALUES ($1, $2, $3)";
            for way in [emit, insert] {
                db.client.execute(way, &[&topic, &encoded, &content_type])?;
                assert_eq!(stored(&mut db)?.0, encoded, "{topic}: {way}");
                db.client.execute(way, &[&topic, &encoded, &None::<&str>])?;
                assert_eq!(stored(&mut db)?.0, encoded, "{topic}: {way}");
                let compact = GOOD.replace(": ", ":").replace(", ", ",");
                db.client.execute(way, &[&topic, &compact.as_bytes(), &"application/json"])?;
                assert_eq!(stored(&mut db)?, (encoded.clone(), content_type.clone()), "{topic}: {way}");
                for bad in [&b"\xff\xff\xff"[..], b"\0\0\0\x7f\0{}", b"", b"\0"] {
                    // No bytes are a Protobuf message, too.
                    if bad.is_empty() && topic == "protobuf-plain" {
                        continue;
                    }
                    let error = db.client.execute(way, &[&topic, &bad, &None::<&str>]).expect_err(way);
                    assert_eq!(error.code(), Some(&SqlState::CHECK_VIOLATION), "{topic}: {way}: {bad:?}");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn a_captured_table_keeps_the_contract() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    db.client.batch_execute("CREATE TABLE orders (id bigint PRIMARY KEY, note text)")?;
    db.client.batch_execute("SELECT outbox.capture('orders', 'fat', topic => 'captured')")?;
    let definition = r#"{"type": "record", "name": "Change", "fields": [
        {"name": "key", "type": {"type": "map", "values": "long"}},
        {"name": "old", "default": null, "type": ["null", {"type": "record", "name": "Row", "fields": [
            {"name": "id", "type": "long"}, {"name": "note", "type": ["null", "string"]}]}]},
        {"name": "new", "default": null, "type": ["null", "Row"]}]}"#;
    db.client.execute("SELECT outbox.register_schema('changes', 'avro', $1)", &[&definition])?;
    db.client.batch_execute("SELECT outbox.bind_schema('captured', NULL, 'changes')")?;
    db.client.batch_execute("INSERT INTO orders VALUES (1, 'a'), (2, NULL)")?;
    let (payload, content_type) = stored(&mut db)?;
    assert_eq!((payload[0], content_type.as_deref()), (0, Some("application/avro")));
    db.client.batch_execute("ALTER TABLE orders ADD COLUMN more int DEFAULT 1")?;
    let error = refused(&mut db.client, "UPDATE orders SET note = 'b'");
    assert_eq!(error.code(), &SqlState::CHECK_VIOLATION);
    Ok(())
}

/// What died or is archived is inserted again as it is.
#[test]
fn a_dead_letter_is_redriven() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    bind_orders(&mut db, "orders", "avro", "confluent")?;
    db.client.execute("SELECT outbox.emit('orders', $1::text::jsonb, 'k')", &[&GOOD])?;
    let before = stored(&mut db)?;
    db.client.batch_execute(
        "SET event_outbox.max_attempts = 1; UPDATE outbox.events SET last_error = 'x', error_class = 'invalid_record'",
    )?;
    assert!(db.client.query("SELECT FROM outbox.events", &[])?.is_empty());
    // A newer version is in use now.
    let newer = ORDERS[1].1.replace("\"note\"", "\"remark\"");
    db.client.execute("SELECT outbox.register_schema('avro-orders', 'avro', $1)", &[&newer])?;
    let redriven: i64 = db.client.query_one("SELECT outbox.redrive(topic => 'orders')", &[])?.get(0);
    assert_eq!((redriven, stored(&mut db)?), (1, before));
    Ok(())
}
