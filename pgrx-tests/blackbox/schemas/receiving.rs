//! Through Kafka and back: what is encoded at emit is decoded at receive.

use event_outbox_lab::{Result, wait};
use serde_json::{Value, json};

use crate::support::database::{DEADLINE, TestDatabase};
use crate::support::inbox_log::subscription;
use crate::support::schemas::{ORDERS, bind_orders};

#[test]
fn each_format_comes_back_through_kafka() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let document = json!({"id": 9_007_199_254_740_993_i64, "note": "ü", "amounts": [0.1, 2.5]});
    for (format, _) in ORDERS {
        for wire_format in ["confluent", "plain"] {
            let name = format!("{format}-{wire_format}");
            let topic = db.own_topic(&name)?;
            bind_orders(&mut db, &topic, format, wire_format)?;
            db.client
                .execute("SELECT outbox.emit($1, $2::text::jsonb, 'k')", &[&topic, &document.to_string()])?;
            db.client.execute("SELECT inbox.subscribe($1, ARRAY[$2], 'earliest')", &[&name, &topic])?;
            let sql = "SELECT data::text, decode_error, content_type FROM inbox.receive($1)";
            let row = wait::until_ok("the event", DEADLINE, || Ok(db.client.query_opt(sql, &[&name])?))?;
            assert_eq!(row.get::<_, Option<String>>(1), None, "{name}");
            let data: Value = serde_json::from_str(row.get(0))?;
            assert_eq!(data, document, "{name}");
            assert_eq!(row.get::<_, String>(2), format!("application/{format}"));
        }
    }
    Ok(())
}

/// Whatever a producer has written, the event is received, and says what is wrong.
#[test]
fn what_cannot_be_decoded_says_why() -> Result<()> {
    let mut db = subscription("none")?;
    let avro = bind_orders(&mut db, "elsewhere", "avro", "confluent")?;
    let protobuf = bind_orders(&mut db, "elsewhere2", "protobuf", "confluent")?;
    let head = |id: i32| format!("\\x00{id:08x}");
    let values = [
        (format!("{}020000", head(avro)), None),
        (format!("{}00", head(protobuf)), None),
        (format!("{}00", head(999)), Some("the schema with id 999 is not known")),
        (format!("{}00", head(-1)), Some("the schema with id -1 is not known")),
        (format!("{}02", head(avro)), Some("/note: the bytes end in it")),
        (format!("{}02020000ff", head(avro)), Some("bytes follow the value")),
        (format!("{}0880", head(protobuf)), Some("names no message")),
        (format!("{}000880", head(protobuf)), Some("it is not Order")),
        ("\\x0000".to_owned(), Some("not JSON")),
        ("\\x7b7d".to_owned(), None),
    ];
    for (at, (value, _)) in values.iter().enumerate() {
        let sql =
            "INSERT INTO inbox.log_0 (source_id, lane, position, partition, \"offset\", key, value, headers)
                   VALUES (1000, 3, $1::bigint + 1, 0, $1, '\\xff00', $2::text::bytea, '')";
        db.client.execute(sql, &[&i64::try_from(at)?, value])?;
    }
    let sql = "SELECT data::text, decode_error FROM inbox.receive('s') ORDER BY position";
    let rows = db.client.query(sql, &[])?;
    assert_eq!(rows.len(), values.len());
    for (row, (value, expected)) in rows.iter().zip(&values) {
        let (data, error): (Option<String>, Option<String>) = (row.get(0), row.get(1));
        assert_eq!(data.is_some(), expected.is_none(), "{value}: {error:?}");
        let error = error.unwrap_or_default();
        assert!(error.contains(expected.unwrap_or_default()), "{value}: {error}");
    }
    Ok(())
}
