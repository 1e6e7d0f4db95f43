//! The Kafka record of an event, byte for byte.

use event_outbox_lab::{Record, Result};
use uuid::Uuid;

use crate::support::database::TestDatabase;

type Header = (String, Option<Vec<u8>>);

fn header(name: &str, value: &str) -> Header {
    (name.into(), Some(value.into()))
}

impl TestDatabase {
    /// Runs a statement whose `$1` is a new topic; returns the one record that it produces.
    fn record_of(&mut self, name: &str, sql: &str) -> Result<Record> {
        let topic = self.topic(name);
        self.client.execute(sql, &[&topic])?;
        let mut records = self.drained(&topic)?;
        assert_eq!(records.len(), 1, "{records:?}");
        Ok(records.remove(0))
    }
}

#[test]
fn an_event_becomes_a_cloudevent() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let record = db.record_of(
        "whole",
        r#"WITH event AS (SELECT outbox.emit($1, '{"b": [1, 2.50, null], "a": "x  y"}', key => 'key 1',
                event_type => 'shop.paid', headers => '{"trace": "7f"}',
                event_id => '018F4E9C-7B1A-7000-8000-0123456789AB'))
           SELECT FROM event"#,
    )?;
    // jsonb orders keys by length, then by bytes, and keeps a number's zeros.
    assert_eq!(record.value_text(), Some(r#"{"a":"x  y","b":[1,2.50,null]}"#));
    assert_eq!(record.key, Some(b"key 1".to_vec()));

    let row = db.client.query_one("SELECT system_identifier::text FROM pg_control_system()", &[])?;
    let source = format!("postgresql://{}/{}", row.get::<_, String>(0), db.database);
    let time = record.header("ce_time").unwrap_or_default().to_string();
    assert_eq!(
        record.headers,
        [
            header("ce_specversion", "1.0"),
            header("ce_id", "018f4e9c-7b1a-7000-8000-0123456789ab"),
            header("ce_source", &source),
            header("ce_type", "shop.paid"),
            header("ce_time", &time),
            header("content-type", "application/json"),
            header("trace", "7f"),
        ]
    );
    Ok(())
}

#[test]
fn the_topic_stands_in_for_the_type_and_the_id_is_what_emit_returned() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("plain");
    let id: Uuid = db.client.query_one("SELECT outbox.emit($1, '{}')", &[&topic])?.get(0);
    let records = db.drained(&topic)?;
    let [record] = &records[..] else { panic!("not one record: {records:?}") };
    assert_eq!(record.header("ce_id"), Some(id.to_string().as_str()));
    assert_eq!(record.header("ce_type"), Some(topic.as_str()));
    assert_eq!((&record.key, record.value_text()), (&None, Some("{}")));
    assert_eq!(record.headers.len(), 6);
    Ok(())
}

/// The time is that of emitting, not that of the transaction's start or of publishing.
#[test]
fn time_and_timestamp_are_those_of_emitting() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("time");
    let mut transaction = db.client.transaction()?;
    for _ in 0..3 {
        transaction.execute("SELECT outbox.emit($1, '0'), pg_sleep(0.002)", &[&topic])?;
    }
    // Also an event of long ago, whose time has no fraction.
    transaction.execute(
        "INSERT INTO outbox.events (topic, payload, emitted_at) VALUES ($1, '0', '2001-02-03 04:05:06+02')",
        &[&topic],
    )?;
    let rows = transaction.query(
        "SELECT floor(extract(epoch FROM emitted_at) * 1000)::bigint, emitted_at > now(),
                to_char(emitted_at, 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') FROM outbox.events ORDER BY id",
        &[],
    )?;
    transaction.commit()?;
    let records = db.drained(&topic)?;
    assert_eq!((rows.len(), records.len()), (4, 4));
    for (row, record) in rows.iter().zip(&records) {
        let stored: String = row.get(2);
        assert_eq!(record.timestamp_ms, Some(row.get(0)));
        // RFC 3339 leaves the number of digits of the fraction open.
        let sent = record.header("ce_time").unwrap_or_default();
        let padded = match sent.trim_end_matches('Z').split_once('.') {
            Some((seconds, fraction)) => format!("{seconds}.{fraction:0<6}Z"),
            None => format!("{}.000000Z", sent.trim_end_matches('Z')),
        };
        assert_eq!((padded, sent.ends_with('Z')), (stored, true));
    }
    assert!(rows[..3].iter().all(|row| row.get(1)), "emitted_at is the time of the transaction");
    assert_eq!(records[3].header("ce_time"), Some("2001-02-03T02:05:06Z"));
    Ok(())
}

#[test]
fn headers_of_every_kind() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let record = db.record_of(
        "headers",
        r#"SELECT outbox.emit($1, '0', headers => '{"text": "a \"b\" \\ c", "none": null, "many": ["x", null, 3],
             "int": 12345678901234567890, "dec": 1.10, "yes": true, "map": {"k": [1, "é"]}, "empty": "", "nil": [],
             "größe": "漢字 🦀", "CASE": "x", "cents": "ce"}')"#,
    )?;
    let own = &record.headers[6..];
    let mut expected = [
        header("text", r#"a "b" \ c"#),
        ("none".into(), None),
        header("many", "x"),
        ("many".into(), None),
        header("many", "3"),
        header("int", "12345678901234567890"),
        header("dec", "1.10"),
        header("yes", "true"),
        header("map", r#"{"k":[1,"é"]}"#),
        header("empty", ""),
        header("größe", "漢字 🦀"),
        header("CASE", "x"),
        header("cents", "ce"),
    ];
    // jsonb orders by name; the elements of an array keep their order.
    expected.sort_by_key(|(name, _)| (name.len(), name.clone()));
    assert_eq!(own, expected);
    Ok(())
}

/// The table's column is json, which keeps order and repetitions; the author's header takes precedence.
#[test]
fn headers_of_a_plain_insert_keep_their_order() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let record = db.record_of(
        "inserted",
        r#"INSERT INTO outbox.events (topic, payload, content_type, headers)
           VALUES ($1, 'x', 'application/json', '{"z": 1, "Content-Type": "text/plain", "a": "2", "z": "3"}')"#,
    )?;
    let own = [header("z", "1"), header("Content-Type", "text/plain"), header("a", "2"), header("z", "3")];
    assert_eq!(record.headers[5..], own);
    Ok(())
}

#[test]
fn a_tombstone_has_a_key_and_no_value() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("tombstone");
    db.client.execute("SELECT outbox.emit($1, NULL, key => 'k')", &[&topic])?;
    db.client.execute("SELECT outbox.emit_bytes($1, NULL, key => 'k', content_type => 'x/y')", &[&topic])?;
    // JSON's null is a value.
    db.client.execute("SELECT outbox.emit($1, 'null', key => 'k')", &[&topic])?;
    let records = db.drained(&topic)?;
    assert_eq!(records.len(), 3);
    for tombstone in &records[..2] {
        assert_eq!((tombstone.key_text(), &tombstone.value), (Some("k"), &None));
        assert_eq!(tombstone.header("content-type"), None);
        assert_eq!(tombstone.headers.len(), 5);
    }
    assert_eq!(records[2].value_text(), Some("null"));
    Ok(())
}

#[test]
fn bytes_are_sent_as_they_are() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("bytes");
    let every_byte: Vec<u8> = (0..=255).collect();
    let key = [0_u8, 255, 0, 128];
    let sql = "SELECT outbox.emit_bytes($1, $2, key => $3, content_type => 'application/protobuf')";
    db.client.execute(sql, &[&topic, &every_byte, &&key[..]])?;
    // Empty is not null; without a content type the header is missing.
    db.client.execute("SELECT outbox.emit_bytes($1, '', key => '')", &[&topic])?;
    let records = db.drained(&topic)?;
    assert_eq!(records.len(), 2);
    assert_eq!((records[0].key.as_deref(), records[0].value.as_ref()), (Some(&key[..]), Some(&every_byte)));
    assert_eq!(records[0].header("content-type"), Some("application/protobuf"));
    assert_eq!((&records[1].key, &records[1].value), (&Some(Vec::new()), &Some(Vec::new())));
    assert_eq!(records[1].header("content-type"), None);
    Ok(())
}

#[test]
fn unicode_payloads_and_keys() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("unicode");
    let text = "Größe 漢字 🦀 \u{202e}\u{7f}\t\"quoted\" \\";
    let sql = "SELECT outbox.emit($1, to_jsonb($2::text), key => $2, event_type => $2)";
    db.client.execute(sql, &[&topic, &text])?;
    let records = db.drained(&topic)?;
    let [record] = &records[..] else { panic!("not one record: {records:?}") };
    assert_eq!((record.key_text(), record.header("ce_type")), (Some(text), Some(text)));
    let value: String = serde_json::from_slice(record.value.as_deref().unwrap_or_default())?;
    assert_eq!(value, text);
    Ok(())
}

#[test]
fn payloads_of_900_kilobytes() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("large");
    // One payload that TOAST compresses, and one that it cannot.
    db.client.execute("SELECT outbox.emit($1, to_jsonb(repeat('x', 900000)), key => 'k')", &[&topic])?;
    let mut noise = 1_u32;
    let incompressible: Vec<u8> = std::iter::repeat_with(|| {
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (noise >> 24) as u8
    })
    .take(900_000)
    .collect();
    for _ in 0..10 {
        let sql = "SELECT outbox.emit_bytes($1, $2, key => 'k')";
        db.client.execute(sql, &[&topic, &incompressible])?;
    }
    let records = db.drained(&topic)?;
    assert_eq!(records.len(), 11);
    assert_eq!(records[0].value.as_ref().map(Vec::len), Some(900_002));
    assert!(records[1..].iter().all(|record| record.value.as_ref() == Some(&incompressible)));
    Ok(())
}
