//! The worker stores what Kafka has, once, with the offsets.

use std::time::Duration;

use event_outbox_lab::{Result, wait};

use crate::support::database::TestDatabase;

const STORED: Duration = Duration::from_secs(30);

fn stored(db: &mut TestDatabase) -> Result<i64> {
    Ok(db.client.query_one("SELECT count(*) FROM inbox.log", &[])?.get(0))
}

fn until_stored(db: &mut TestDatabase, count: i64) -> Result<()> {
    wait::until_ok(&format!("{count} events in the log"), STORED, || {
        let stored = stored(db)?;
        assert!(stored <= count, "{stored} events are more than {count}");
        Ok((stored == count).then_some(()))
    })
}

#[test]
fn what_kafka_has_is_stored_with_its_offsets() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic("stored")?;
    db.client.execute(
        "SELECT outbox.emit($1, to_jsonb(n), key => n::text) FROM generate_series(1, 1000) AS n",
        &[&topic],
    )?;
    db.client.execute("SELECT inbox.subscribe('s', ARRAY[$1], 'earliest')", &[&topic])?;
    until_stored(&mut db, 1000)?;
    db.client.execute("SELECT outbox.emit($1, to_jsonb(n)) FROM generate_series(1, 500) AS n", &[&topic])?;
    until_stored(&mut db, 1500)?;
    let row = db.client.query_one(
        "SELECT count(DISTINCT position), count(DISTINCT (partition, \"offset\")), max(position) FROM inbox.log",
        &[],
    )?;
    assert_eq!([row.get::<_, i64>(0), row.get(1), row.get(2)], [1500, 1500, 1500]);
    Ok(())
}
