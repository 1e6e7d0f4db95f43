//! Emits events as an application does, counts them, and waits until they have left the outbox.

use std::ops::RangeInclusive;
use std::time::Duration;

use event_outbox_lab::{Result, wait};
use postgres::{Client, GenericClient};
use serde_json::Value;
use uuid::Uuid;

type PgResult<T> = std::result::Result<T, postgres::Error>;

/// An event to emit with `outbox.emit()`.
pub struct Event<'a> {
    topic: &'a str,
    payload: Value,
    key: Option<&'a str>,
    partition: Option<i32>,
}

impl<'a> Event<'a> {
    pub fn new(topic: &'a str, payload: impl Into<Value>) -> Self {
        Self { topic, payload: payload.into(), key: None, partition: None }
    }

    pub fn key(self, key: &'a str) -> Self {
        Self { key: Some(key), ..self }
    }

    /// Sends the event to this partition, whatever its key.
    pub fn partition(self, partition: i32) -> Self {
        Self { partition: Some(partition), ..self }
    }

    /// Returns the event's id.
    pub fn emit(&self, client: &mut impl GenericClient) -> PgResult<Uuid> {
        let sql = "SELECT outbox.emit($1, $2::jsonb, key => $3::text, partition => $4::int)";
        let row = client.query_one(sql, &[&self.topic, &self.payload, &self.key, &self.partition])?;
        Ok(row.get(0))
    }
}

/// Emits an event without a key; returns its id.
pub fn emit(client: &mut impl GenericClient, topic: &str, payload: impl Into<Value>) -> PgResult<Uuid> {
    Event::new(topic, payload).emit(client)
}

/// Emits these numbers in one statement. `key` is an SQL expression of the number `n`.
pub fn emit_numbers(
    client: &mut impl GenericClient,
    topic: &str,
    numbers: RangeInclusive<i32>,
    key: &str,
) -> PgResult<()> {
    let sql =
        format!("SELECT outbox.emit($1, to_jsonb(n), key => {key}) FROM generate_series($2::int, $3) AS n");
    client.execute(&sql, &[&topic, numbers.start(), numbers.end()]).map(drop)
}

/// The number of events in the outbox.
pub fn pending_count(client: &mut impl GenericClient) -> Result<i64> {
    Ok(client.query_one("SELECT count(*) FROM outbox.events", &[])?.get(0))
}

/// Waits until exactly the events with these payloads are left.
pub fn until_payloads_left(client: &mut Client, payloads: &[&str], within: Duration) -> Result<()> {
    let sql = "SELECT coalesce(array_agg(payload ORDER BY id), '{}') FROM outbox.pending";
    let mut last: Vec<String> = Vec::new();
    wait::until_ok(&format!("only {payloads:?} to be left"), within, || {
        last = client.query_one(sql, &[])?.get(0);
        Ok((last == payloads).then_some(()))
    })
    .map_err(|error| error.context(format!("last seen: {last:?}")))
}
