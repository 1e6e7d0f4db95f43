//! Events that Kafka refuses until they are dead letters.

use event_outbox_lab::{Result, wait};
use postgres::Client;

use crate::support::database::{DEADLINE, TestDatabase};
use crate::support::relay::status;

/// A partition that no test topic has.
pub const NOWHERE: i32 = 7;

/// A database where events die within a second, and a topic of one partition.
pub fn deadly_database() -> Result<(TestDatabase, String)> {
    let mut db = TestDatabase::new()?;
    db.configure("event_outbox.retry_backoff", "100ms")?;
    let topic = db.topic("narrow");
    db.broker.create_topic(&topic, 1, &[])?;
    Ok((db, topic))
}

/// The payloads of the dead letters, in the order in which their events were emitted.
pub fn dead(client: &mut Client) -> Result<Vec<String>> {
    let sql = "SELECT convert_from(payload, 'UTF8')::jsonb #>> '{}' FROM outbox.dead_letters ORDER BY id";
    Ok(client.query(sql, &[])?.iter().map(|row| row.get(0)).collect())
}

/// Waits for `count` dead letters; returns their payloads.
pub fn until_dead(client: &mut Client, count: usize) -> Result<Vec<String>> {
    wait::until_ok(&format!("{count} dead letters"), DEADLINE, || {
        Ok(Some(dead(client)?).filter(|dead| dead.len() >= count))
    })
    .map_err(|error| match status(client) {
        Ok(status) => error.context(format!("{status:?}")),
        Err(_) => error,
    })
}
