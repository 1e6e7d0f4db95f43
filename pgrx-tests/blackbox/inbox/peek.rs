//! Records can be looked at in Kafka, without receiving them.

use event_outbox_lab::Result;
use postgres::Client;

use crate::support::database::TestDatabase;
use crate::support::roles::{assert_denied, create_role};
use crate::support::subscriptions::{filled_topic, refusal};

/// The offsets and payloads that `inbox.peek()` shows.
fn peek(client: &mut Client, topic: &str, place: &str) -> Result<Vec<(i64, String)>> {
    let sql = format!(
        "SELECT \"offset\", convert_from(payload, 'UTF8') FROM inbox.peek('{topic}', {place}, timeout => '30 s')"
    );
    Ok(client.query(&sql, &[])?.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// The offsets of a topic whose payloads are counted from 1 on.
fn numbered(offsets: std::ops::Range<i64>) -> Vec<(i64, String)> {
    offsets.map(|offset| (offset, (offset + 1).to_string())).collect()
}

#[test]
fn records_are_shown_from_an_offset_on() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = filled_topic(&mut db, "peek", &[0, 25])?;
    for (place, expected) in [
        ("1, 3", numbered(3..13)),
        ("1, 3, 2", numbered(3..5)),
        ("1, 0, 1000", numbered(0..25)),
        ("1, 24, 10", numbered(24..25)),
        ("1, 25", Vec::new()),
        ("0, 0", Vec::new()),
    ] {
        assert_eq!(peek(&mut db.client, &topic, place)?, expected, "{place}");
    }
    // It may stand where an expression may, and nothing was received or stored.
    let sql = format!("SELECT count(*) FROM (SELECT inbox.peek('{topic}', 1, 0, 7)) AS p");
    assert_eq!(db.client.query_one(&sql, &[])?.get::<_, i64>(0), 7);
    let sql = "SELECT (SELECT count(*) FROM inbox.log) + (SELECT count(*) FROM inbox.subscriptions)";
    assert_eq!(db.client.query_one(sql, &[])?.get::<_, i64>(0), 0);
    Ok(())
}

#[test]
fn a_record_is_shown_with_all_its_parts() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic("parts")?;
    db.client.execute(
        "SELECT outbox.emit_bytes($1, '\\x00ff', '\\x6b00', headers => '{\"a\": [\"1\", \"2\"], \"b\": \"3\"}')",
        &[&topic],
    )?;
    db.client.execute("SELECT outbox.emit_bytes($1, NULL, '\\x6b')", &[&topic])?;
    assert!(db.client.query_one("SELECT outbox.wait_published('30 s')", &[])?.get::<_, bool>(0));
    let sql = format!(
        "SELECT key, payload, headers -> 'a' = '[\"1\", \"2\"]' AND headers ->> 'b' = '3', truncated,
                produced_at BETWEEN now() - interval '5 min' AND clock_timestamp() + interval '5 min'
           FROM inbox.peek('{topic}', 0, 0)"
    );
    let rows = db.client.query(&sql, &[])?;
    let parts = |row: &postgres::Row| (row.get::<_, Vec<u8>>(0), row.get::<_, Option<Vec<u8>>>(1));
    assert_eq!(
        rows.iter().map(parts).collect::<Vec<_>>(),
        [(b"k\0".to_vec(), Some(b"\0\xff".to_vec())), (b"k".to_vec(), None),]
    );
    assert_eq!(rows[0].get::<_, Option<bool>>(2), Some(true), "headers");
    assert!(rows.iter().all(|row| !row.get::<_, bool>(3) && row.get::<_, bool>(4)));
    Ok(())
}

/// An answer of the relay has room for a part of these only.
#[test]
fn long_records_are_shown_one_after_the_other() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic("long")?;
    let sql = "SELECT outbox.emit_bytes($1, convert_to(repeat('x', n), 'UTF8')) FROM unnest($2::int[]) AS n";
    let lengths = [40_000, 40_000, 500_000, 1, 40_000];
    db.client.execute(sql, &[&topic, &lengths.as_slice()])?;
    assert!(db.client.query_one("SELECT outbox.wait_published('30 s')", &[])?.get::<_, bool>(0));
    let sql =
        format!("SELECT length(payload), truncated FROM inbox.peek('{topic}', 0, 0, timeout => '60 s')");
    let shown: Vec<(i32, bool)> =
        db.client.query(&sql, &[])?.iter().map(|row| (row.get(0), row.get(1))).collect();
    let [first, second, cut, others @ ..] = &shown[..] else { panic!("{shown:?}") };
    assert_eq!([first, second], [&(40_000, false); 2]);
    assert!(cut.1 && (50_000..500_000).contains(&cut.0), "{cut:?}");
    assert_eq!(others, [(1, false), (40_000, false)]);
    Ok(())
}

#[test]
fn what_cannot_be_shown_says_why() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = filled_topic(&mut db, "refused", &[3])?;
    let missing = db.topic("missing");
    for (arguments, code) in [
        (format!("'{topic}', 0, 4"), "22003"),
        (format!("'{topic}', 1, 0"), "42704"),
        (format!("'{missing}', 0, 0"), "42704"),
        (format!("'{topic}', 0, -1"), "22023"),
        (format!("'{topic}', -1, 0"), "22023"),
        (format!("'{topic}', 0, 0, 0"), "22023"),
        (format!("'{topic}', 0, 0, 1001"), "22023"),
        (format!("'{topic}', 0, NULL"), "22023"),
        ("'a b', 0, 0".to_owned(), "22023"),
    ] {
        let sql = format!("SELECT * FROM inbox.peek({arguments})");
        assert_eq!(refusal(&mut db.client, &sql), code, "{sql}");
    }
    assert!(!db.broker.has_topic(&missing)?, "looking has created the topic");
    Ok(())
}

/// Kafka is read as the server's user, so a role sees only the topics that it was granted to consume.
#[test]
fn a_role_looks_at_granted_topics_only() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let granted = filled_topic(&mut db, "granted", &[1])?;
    let other = filled_topic(&mut db, "other", &[1])?;
    let rights = "GRANT USAGE ON SCHEMA inbox TO ROLE; GRANT EXECUTE ON FUNCTION inbox.peek TO ROLE";
    let role = create_role(&mut db, "looker", rights)?;
    let mut looker = db.connect_as(&role)?;
    assert_denied(&mut looker, &format!("SELECT * FROM inbox.peek('{granted}', 0, 0)"));
    db.client.batch_execute(&format!("SELECT inbox.grant_topic('{role}', '{granted}')"))?;
    assert_eq!(peek(&mut looker, &granted, "0, 0")?, numbered(0..1));
    assert_denied(&mut looker, &format!("SELECT * FROM inbox.peek('{other}', 0, 0)"));
    for sql in [
        format!("SELECT * FROM inbox.peek_for('{role}', '{granted}', 0, 0, 1, '1 s')"),
        format!(
            "SELECT outbox.ask_kafka('{{\"peek\": {{\"topic\": \"{other}\", \"partition\": 0, \"offset\": 0, \"max\": 1}}}}', '1 s')"
        ),
    ] {
        assert_denied(&mut looker, &sql);
    }
    Ok(())
}
