//! The worker stores what Kafka has, once, with the offsets.

use std::time::Duration;

use anyhow::Context;
use event_outbox_lab::{Result, wait};

use crate::support::database::TestDatabase;

const STORED: Duration = Duration::from_secs(30);

fn stored(db: &mut TestDatabase) -> Result<i64> {
    Ok(db.client.query_one("SELECT count(*) FROM inbox.log", &[])?.get(0))
}

fn until_stored(db: &mut TestDatabase, count: i64) -> Result<()> {
    let result = wait::until_ok(&format!("{count} events in the log"), STORED, || {
        let stored = stored(db)?;
        assert!(stored <= count, "{stored} events are more than {count}");
        Ok((stored == count).then_some(()))
    });
    let says = "SELECT format('%s, %s: %s', state, connection, last_error) FROM inbox.consumers \
                WHERE database = current_database()";
    let says: String = db.client.query_one(says, &[])?.get(0);
    result.context(format!("{} events in the log; the worker is {says}", stored(db)?))
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

/// An event that its producer has sent twice has the same id, in one batch or in two.
#[test]
fn duplicates_of_producers_are_dropped_if_asked() -> Result<()> {
    let mut db = TestDatabase::new()?;
    let topic = db.own_topic("twice")?;
    let emit = "SELECT outbox.emit($1, to_jsonb(n), event_id => md5(n::text)::uuid) FROM generate_series(1, 100) AS n";
    for _ in 0..2 {
        db.client.execute(emit, &[&topic])?;
    }
    assert!(db.client.query_one("SELECT outbox.wait_published('30 s')", &[])?.get::<_, bool>(0));
    db.client.execute(
        "SELECT inbox.subscribe('once', ARRAY[$1], 'earliest', deduplicate => '1 day')",
        &[&topic],
    )?;
    until_stored(&mut db, 100)?;
    db.client.execute(emit, &[&topic])?;
    db.client.execute("SELECT outbox.emit($1, '0')", &[&topic])?;
    until_stored(&mut db, 101)?;
    let lag = "SELECT sum(next_offset)::bigint FROM inbox.partitions";
    assert_eq!(db.client.query_one(lag, &[])?.get::<_, i64>(0), 301);
    Ok(())
}
