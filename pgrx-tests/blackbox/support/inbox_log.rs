//! A subscription whose log is filled by hand, for tests of what sessions receive.

use event_outbox_lab::{Result, inbox_log};
use postgres::Client;

use crate::support::database::TestDatabase;

/// A subscription `s` whose log is filled by hand: its one partition is stopped, so the worker reads nothing.
pub fn subscription(ordering: &str) -> Result<TestDatabase> {
    let mut db = TestDatabase::new()?;
    db.client.batch_execute(&inbox_log::subscription(ordering))?;
    Ok(db)
}

/// Stores events, each with its position, lane and key.
pub fn store(db: &mut TestDatabase, events: &[(i64, i16, &str)]) -> Result<()> {
    for (position, lane, key) in events {
        db.client.execute(
            "INSERT INTO inbox.log_0 (source_id, lane, position, partition, \"offset\", produced_at, key, value)
             VALUES (1000, $2, $1, 0, $1, now(), convert_to($3, 'UTF8'), convert_to($1::bigint::text, 'UTF8'))",
            &[position, lane, key],
        )?;
    }
    Ok(())
}

/// The positions that a session receives.
pub fn receive(client: &mut Client, max: i32) -> Result<Vec<i64>, postgres::Error> {
    let rows = client.query("SELECT position FROM inbox.receive('s', $1) ORDER BY position", &[&max])?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

pub fn number(db: &mut TestDatabase, sql: &str) -> Result<i64> {
    Ok(db.client.query_one(sql, &[])?.get(0))
}
