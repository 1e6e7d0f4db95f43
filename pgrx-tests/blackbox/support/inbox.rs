//! Receives from subscriptions, and observes the worker that stores their events.

use event_outbox_lab::{Cluster, Result, wait};
use postgres::{Client, GenericClient};
use serde_json::Value;

use crate::support::database::DEADLINE;

/// An event as `inbox.receive()` returns it.
#[derive(Clone, Debug, PartialEq)]
pub struct Received {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    pub key: Option<Vec<u8>>,
    pub payload: Option<Vec<u8>>,
    pub headers: Option<Value>,
    pub attempt: i32,
}

impl Received {
    /// The payload as text.
    pub fn text(&self) -> &str {
        self.payload.as_deref().and_then(|payload| std::str::from_utf8(payload).ok()).unwrap_or("(no text)")
    }

    /// The payload as a number.
    pub fn number(&self) -> i64 {
        self.text().parse().unwrap_or_else(|_| panic!("no number: {self:?}"))
    }
}

/// What a session receives now, in the order of arrival.
pub fn receive(
    client: &mut impl GenericClient,
    subscription: &str,
    max: i32,
) -> Result<Vec<Received>, postgres::Error> {
    let sql = "SELECT topic, partition, \"offset\", key, payload, headers, attempt
                 FROM inbox.receive($1, $2) ORDER BY position";
    let rows = client.query(sql, &[&subscription, &max])?;
    let received = rows.iter().map(|row| Received {
        topic: row.get(0),
        partition: row.get(1),
        offset: row.get(2),
        key: row.get(3),
        payload: row.get(4),
        headers: row.get(5),
        attempt: row.get(6),
    });
    Ok(received.collect())
}

/// Receives, a transaction a call, until there are this many events; there must not be more.
pub fn until_received(client: &mut Client, subscription: &str, count: usize) -> Result<Vec<Received>> {
    let mut all = Vec::new();
    wait::until_ok(&format!("{count} events of {subscription}"), DEADLINE, || {
        all.extend(receive(client, subscription, 1000)?);
        assert!(all.len() <= count, "{} events are more than {count}: {all:?}", all.len());
        Ok((all.len() == count).then_some(()))
    })
    .map_err(|error| error.context(format!("received {}; {}", all.len(), describe(client))))?;
    Ok(all)
}

/// Receives until there are this many events, whose payloads are numbers; returns the numbers, sorted.
pub fn until_numbers(client: &mut Client, subscription: &str, count: usize) -> Result<Vec<i64>> {
    let mut numbers: Vec<i64> =
        until_received(client, subscription, count)?.iter().map(Received::number).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Waits until this many events are in the log.
pub fn until_stored(client: &mut Client, count: i64) -> Result<()> {
    wait::until_ok(&format!("{count} events in the log"), DEADLINE, || {
        let stored: i64 = client.query_one("SELECT count(*) FROM inbox.log", &[])?.get(0);
        Ok((stored >= count).then_some(()))
    })
    .map_err(|error| error.context(describe(client)))
}

/// Waits until the subscription has stored all that Kafka has.
pub fn until_no_lag(client: &mut Client, subscription: &str) -> Result<()> {
    wait::until_ok(&format!("no lag of {subscription}"), DEADLINE, || {
        let sql = "SELECT coalesce(sum(to_store) = 0 AND count(*) = count(end_offset), false)
                     FROM inbox.lag WHERE subscription = $1";
        Ok(client.query_one(sql, &[&subscription])?.get::<_, bool>(0).then_some(()))
    })
    .map_err(|error| error.context(describe(client)))
}

/// Waits until the worker of the client's database is in this state; returns its last error.
pub fn until_consumer(client: &mut Client, state: &str) -> Result<String> {
    wait::until_ok(&format!("an inbox worker that is {state}"), DEADLINE, || {
        let sql = "SELECT coalesce(last_error, '') FROM inbox.consumers
                    WHERE database = current_database() AND state = $1";
        Ok(client.query_opt(sql, &[&state])?.map(|row| row.get(0)))
    })
    .map_err(|error| error.context(describe(client)))
}

/// Has nothing stored while `work` is done, in the database of the client: its workers are disabled before, and enabled after.
pub fn while_disabled<T>(
    client: &mut Client,
    database: &str,
    work: impl FnOnce(&mut Client) -> Result<T>,
) -> Result<T> {
    client.batch_execute(&format!("ALTER DATABASE {database} SET event_outbox.enabled = off"))?;
    until_consumer(client, "disabled")?;
    let done = work(client)?;
    client.batch_execute(&format!("ALTER DATABASE {database} SET event_outbox.enabled = on"))?;
    Ok(done)
}

/// The state, the lost range and the reason of a stopped partition.
pub fn until_stopped(client: &mut Client, topic: &str, partition: i32) -> Result<(i64, i64, String)> {
    wait::until_ok(&format!("partition {partition} of {topic} to stop"), DEADLINE, || {
        let sql = "SELECT coalesce(lost_from, -1), coalesce(lost_to, -1), stop_reason FROM inbox.partitions
                    WHERE topic = $1 AND partition = $2 AND state = 'stopped'";
        let row = client.query_opt(sql, &[&topic, &partition])?;
        Ok(row.map(|row| (row.get(0), row.get(1), row.get(2))))
    })
    .map_err(|error| error.context(describe(client)))
}

/// The process ids of the inbox's workers of a database, seen from another database.
pub fn processes(server: &Cluster, database: &str) -> Result<Vec<i32>> {
    let rows = server.connect("postgres")?.query(
        "SELECT pid FROM pg_stat_activity WHERE backend_type = 'event_outbox inbox' AND datname = $1",
        &[&database],
    )?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Waits until a database has this many workers of the inbox.
pub fn until_processes(server: &Cluster, database: &str, count: usize) -> Result<Vec<i32>> {
    wait::until_ok(&format!("{count} inbox workers in {database}"), DEADLINE, || {
        Ok(Some(processes(server, database)?).filter(|found| found.len() == count))
    })
}

/// What the views say of the worker and its partitions, for the error of a test.
fn describe(client: &mut Client) -> String {
    let sql = "SELECT (SELECT row_to_json(c)::text FROM inbox.consumers AS c WHERE database = current_database()) || ' '
                      || coalesce((SELECT json_agg(p)::text FROM inbox.partitions AS p), '')";
    let row = client.query_one(sql, &[]);
    row.map_or_else(|error| error.to_string(), |row| row.get::<_, Option<String>>(0).unwrap_or_default())
}
