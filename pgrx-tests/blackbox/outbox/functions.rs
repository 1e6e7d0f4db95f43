//! The functions that need no table: `outbox.uuid_v7()`, `outbox.channel()`, `outbox.readable()`.

use std::collections::BTreeSet;

use event_outbox_lab::Result;
use uuid::{Uuid, Variant};

use crate::support::database::TestDatabase;

#[test]
fn uuid_v7_is_a_uuid_of_version_7_ordered_by_time() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let mut last = 0;
    for _ in 0..50 {
        let sql = "SELECT extract(epoch FROM clock_timestamp())::float8 * 1000, outbox.uuid_v7(),
                          extract(epoch FROM clock_timestamp())::float8 * 1000";
        let row = db.client.query_one(sql, &[])?;
        let (before, id, after): (f64, Uuid, f64) = (row.get(0), row.get(1), row.get(2));
        assert_eq!((id.get_version_num(), id.get_variant()), (7, Variant::RFC4122), "{id}");
        let millis = i64::try_from(id.as_u128() >> 80)?;
        assert!((before as i64..=after as i64).contains(&millis), "{id}: not in {before}..{after}");
        assert!(millis >= last, "{id}: {millis} after {last}");
        last = millis;
    }
    Ok(())
}

#[test]
fn uuid_v7_does_not_repeat_itself_nor_another_process() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let mut seen = BTreeSet::new();
    let mut clients = [db.connect()?, db.connect()?];
    for client in clients.iter_mut().chain([&mut db.client]) {
        let rows = client.query("SELECT outbox.uuid_v7() FROM generate_series(1, 2000)", &[])?;
        seen.extend(rows.iter().map(|row| row.get::<_, Uuid>(0)));
    }
    assert_eq!(seen.len(), 6000);
    Ok(())
}

#[test]
fn an_event_id_of_ones_own_is_kept_and_may_repeat() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("own_id");
    let own = Uuid::from_u128(42);
    for _ in 0..2 {
        let sql = "SELECT outbox.emit($1, '1', event_id => $2)";
        let given: Uuid = db.client.query_one(sql, &[&topic, &own])?.get(0);
        assert_eq!(given, own);
    }
    let records = db.drained(&topic)?;
    assert_eq!(records.len(), 2);
    assert!(records.iter().all(|record| record.header("ce_id") == Some(own.to_string().as_str())));
    Ok(())
}

#[test]
fn channels_fit_into_63_bytes_and_differ() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let mut channel = |topic: &str| -> Result<String> {
        Ok(db.client.query_one("SELECT outbox.channel($1)", &[&topic])?.get(0))
    };
    assert_eq!(channel("orders")?, "outbox:orders");
    assert_eq!(channel(&"x".repeat(56))?, format!("outbox:{}", "x".repeat(56)));
    let mut channels = BTreeSet::new();
    for length in 1..=249 {
        for last in ["a", "b"] {
            let found = channel(&format!("{}{last}", "x".repeat(length - 1)))?;
            assert!(found.len() <= 63 && found.starts_with("outbox:"), "{found}");
            channels.insert(found);
        }
    }
    assert_eq!(channels.len(), 2 * 249);
    let none: Option<String> = db.client.query_one("SELECT outbox.channel(NULL)", &[])?.get(0);
    assert_eq!(none, None);
    Ok(())
}

#[test]
fn readable_shows_text_as_text() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let cases: [(&[u8], &str); 6] = [
        ("é 漢".as_bytes(), "é 漢"),
        (b"", ""),
        (b"\\x00", "\\x00"),
        (b"\0", "\\x00"),
        (b"a\xff", "\\x61ff"),
        (b"\xed\xa0\x80", "\\xeda080"),
    ];
    for (bytes, expected) in cases {
        let shown: String = db.client.query_one("SELECT outbox.readable($1)", &[&bytes])?.get(0);
        assert_eq!(shown, expected);
    }
    Ok(())
}

/// A trigger that emits uses a sequence, too: only `lastval()` shows that, as documented.
#[test]
fn ids_of_the_applications_rows_stay_its_own() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("ids");
    db.client.batch_execute(&format!(
        "CREATE TABLE orders (id serial PRIMARY KEY);
         SELECT setval('orders_id_seq', 1000);
         CREATE FUNCTION order_changed() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             PERFORM outbox.emit('{topic}', to_jsonb(NEW), key => NEW.id::text);
             RETURN NULL;
         END
         $$;
         CREATE TRIGGER order_changed AFTER INSERT ON orders
             FOR EACH ROW EXECUTE FUNCTION order_changed()"
    ))?;
    let returned: i32 = db.client.query_one("INSERT INTO orders DEFAULT VALUES RETURNING id", &[])?.get(0);
    let row = db.client.query_one("SELECT currval('orders_id_seq'), lastval()", &[])?;
    let (current, last): (i64, i64) = (row.get(0), row.get(1));
    assert_eq!((returned, current), (1001, 1001));
    let event: i64 = db.client.query_one("SELECT last_value FROM outbox.events_id_seq", &[])?.get(0);
    assert_eq!(last, event, "lastval() is the application's now: change the documents");
    Ok(())
}
