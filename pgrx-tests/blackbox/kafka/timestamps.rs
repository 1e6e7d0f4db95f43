//! If a topic refuses a record for its time, the relay sends it with the present time, and the true one in `ce_time`: an
//! outage that made events old is not charged to them.

use event_outbox_lab::{Record, Result, wait};
use postgres::Client;

use crate::support::database::{DEADLINE, TestDatabase};

const HOUR_MS: i64 = 3_600_000;

/// A topic that accepts records of up to an hour ago and up to an hour ahead.
fn strict_topic(db: &TestDatabase, name: &str) -> Result<String> {
    let (topic, hour) = (db.topic(name), HOUR_MS.to_string());
    let limits = [("message.timestamp.before.max.ms", &*hour), ("message.timestamp.after.max.ms", &*hour)];
    db.broker.create_topic(&topic, 1, &limits)?;
    Ok(topic)
}

fn now_ms(client: &mut Client) -> Result<i64> {
    Ok(client.query_one("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint", &[])?.get(0))
}

/// If `ce_time` differs from the time of the record, the latter is the present.
fn assert_times(records: &[Record], now: i64) {
    for record in records {
        let time = record.timestamp_ms.unwrap_or_default();
        assert!((now - time).abs() <= HOUR_MS, "{record:?}");
        assert!(record.header("ce_time").is_some(), "{record:?}");
    }
}

#[test]
fn events_from_before_an_outage_are_published_in_order() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = strict_topic(&db, "old")?;
    // As many as accumulate in an outage: from two days ago until now.
    let sql = "INSERT INTO outbox.events (topic, key, payload, emitted_at)
               SELECT $1, convert_to((n % 7)::text, 'UTF8'), convert_to(n::text, 'UTF8'),
                      clock_timestamp() - (2000 - n) * interval '86 seconds'
                 FROM generate_series(1, 2000) AS n";
    db.client.execute(sql, &[&topic])?;
    let records = db.drained(&topic)?;
    let dead: i64 = db.client.query_one("SELECT count(*) FROM outbox.dead_letters", &[])?.get(0);
    assert_eq!((records.len(), dead), (2000, 0));
    assert_times(&records, now_ms(&mut db.client)?);
    for key in 0..7 {
        let key = key.to_string();
        let values = records.iter().filter(|record| record.key_text() == Some(&key));
        let numbers: Vec<i32> = values.filter_map(|record| record.value_text()?.parse().ok()).collect();
        assert!(numbers.is_sorted(), "key {key}: {numbers:?}");
    }
    // A few events are enough to learn what the topic accepts.
    let refused: i64 = db.client.query_one("SELECT refused FROM outbox.status", &[])?.get(0);
    assert!(refused <= 20, "{refused} events were refused");
    Ok(())
}

#[test]
fn an_event_of_the_future_is_published_and_tells_its_time() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = strict_topic(&db, "future")?;
    let sql =
        "INSERT INTO outbox.events (topic, payload, emitted_at) VALUES ($1, '1', '2099-12-31 01:02:03Z')";
    db.client.execute(sql, &[&topic])?;
    let records = db.drained(&topic)?;
    assert_eq!(records.len(), 1);
    assert_times(&records, now_ms(&mut db.client)?);
    assert_eq!(records[0].header("ce_time"), Some("2099-12-31T01:02:03Z"));
    Ok(())
}

#[test]
fn a_dead_one_can_be_sent_again() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = strict_topic(&db, "dead")?;
    db.configure("event_outbox.max_attempts", "1")?;
    let sql =
        "INSERT INTO outbox.events (topic, payload, emitted_at) VALUES ($1, '1', '2001-02-03 04:05:06Z')";
    db.client.execute(sql, &[&topic])?;
    let class: String = wait::until_ok("a dead letter", DEADLINE, || {
        Ok(db.client.query_opt("SELECT error_class FROM outbox.dead_letters", &[])?.map(|row| row.get(0)))
    })?;
    assert_eq!(class, "invalid_timestamp");
    // Another relay does not know it yet.
    db.client.batch_execute("SELECT outbox.restart_relay(); SELECT outbox.redrive(max => 1)")?;
    let records = db.drained(&topic)?;
    assert_eq!(records.len(), 1);
    assert_times(&records, now_ms(&mut db.client)?);
    assert_eq!(records[0].header("ce_time"), Some("2001-02-03T04:05:06Z"));
    let dead: i64 = db.client.query_one("SELECT count(*) FROM outbox.dead_letters", &[])?.get(0);
    assert_eq!(dead, 0);
    Ok(())
}
