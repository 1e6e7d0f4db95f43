//! Events that were emitted while the relay was off.

use std::collections::HashSet;

use event_outbox_lab::Result;

use crate::support::database::TestDatabase;

#[test]
fn a_backlog_is_published_in_order() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("backlog");
    db.configure("event_outbox.enabled", "off")?;
    db.client.execute(
        "SELECT outbox.emit($1, to_jsonb(n), key => 'k' || n % 3) FROM generate_series(1, 2000) AS n",
        &[&topic],
    )?;
    // Some are deleted by hand, one by one and in bulk; some are rolled back.
    db.client.batch_execute(
        "DELETE FROM outbox.events WHERE id % 7 = 0;
         DELETE FROM outbox.events WHERE id BETWEEN 500 AND 700",
    )?;
    let mut undone = db.client.transaction()?;
    undone.execute("SELECT outbox.emit($1, '0') FROM generate_series(1, 100)", &[&topic])?;
    undone.rollback()?;
    db.client.batch_execute("VACUUM outbox.events")?;
    // New events go into the pages of the deleted ones.
    db.client.execute(
        "SELECT outbox.emit($1, to_jsonb(n), key => 'k' || n % 3) FROM generate_series(2001, 2100) AS n",
        &[&topic],
    )?;
    let rows = db.client.query("SELECT payload FROM outbox.pending ORDER BY id", &[])?;
    let expected: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert!((1500..2000).contains(&expected.len()), "{}", expected.len());

    db.configure("event_outbox.enabled", "on")?;
    let values = db.drained_values(&topic)?;
    assert_eq!(values.len(), expected.len());
    // Order holds per key.
    let of_key = |values: &[String], key: i32| -> Vec<String> {
        let is_of_key = |value: &&String| value.parse::<i32>().is_ok_and(|n| n % 3 == key);
        values.iter().filter(is_of_key).cloned().collect()
    };
    for key in 0..3 {
        assert_eq!(of_key(&values, key), of_key(&expected, key));
    }
    let published: i64 = db.client.query_one("SELECT published FROM outbox.status", &[])?.get(0);
    assert_eq!(published, expected.len() as i64);
    Ok(())
}

#[test]
fn a_small_window_drains_a_large_backlog() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("window");
    db.configure("event_outbox.enabled", "off")?;
    db.configure("event_outbox.max_in_flight", "7")?;
    db.configure("event_outbox.batch_size", "3")?;
    let sql = "SELECT outbox.emit($1, to_jsonb(n)) FROM generate_series(1, 500) AS n";
    db.client.execute(sql, &[&topic])?;
    db.configure("event_outbox.enabled", "on")?;
    let expected: Vec<_> = (1..=500).map(|n| n.to_string()).collect();
    assert_eq!(db.drained_values(&topic)?, expected);
    Ok(())
}

#[test]
fn switching_off_and_on_loses_nothing_and_keeps_the_order() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.topic("switch");
    for round in 0..3 {
        for enabled in ["off", "on"] {
            let sql = "SELECT outbox.emit($1, to_jsonb(n), key => 'k')
                         FROM generate_series($2::int + 1, $2::int + 300) AS n";
            db.client.execute(sql, &[&topic, &(round * 600 + i32::from(enabled == "on") * 300)])?;
            db.configure("event_outbox.enabled", enabled)?;
        }
    }
    // If a relay stops half-way, the next one may repeat what was not acknowledged in time.
    let mut seen = HashSet::new();
    let mut published = db.drained_values(&topic)?;
    published.retain(|value| seen.insert(value.clone()));
    let expected: Vec<_> = (1..=1800).map(|n| n.to_string()).collect();
    assert_eq!(published, expected);
    Ok(())
}
