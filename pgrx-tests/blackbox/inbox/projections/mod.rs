//! Topics as tables: what a projection writes, when, and as whom.

mod crashes;
mod fairness;
mod keeping;
mod losses;
mod mirror;
mod rebuilds;
mod refusals;
mod rights;
mod schemas;

use std::time::Duration;

use event_outbox_lab::producer::NewRecord;
use event_outbox_lab::{Producer, Result, wait};
use postgres::Client;

use crate::support::database::TestDatabase;

/// Ample for a projection to do anything.
const PROJECTED: Duration = Duration::from_secs(40);

/// A database with a topic and a producer for it.
struct Projected {
    db: TestDatabase,
    topic: String,
    producer: Producer,
}

impl Projected {
    fn new(partitions: i32) -> Result<Self> {
        Self::of_topic(partitions, &[("cleanup.policy", "compact")])
    }

    /// Kafka refuses records without a key if the topic is compacted.
    fn not_compacted(partitions: i32) -> Result<Self> {
        Self::of_topic(partitions, &[])
    }

    fn of_topic(partitions: i32, config: &[(&str, &str)]) -> Result<Self> {
        let db = TestDatabase::new()?;
        let topic = db.topic("state");
        db.broker.create_topic(&topic, partitions, config)?;
        let producer = Producer::new(&db.broker.bootstrap_servers())?;
        Ok(Self { db, topic, producer })
    }

    /// Sends records with these keys and values; no value is a tombstone.
    fn send(&self, records: &[(&str, Option<&str>)]) -> Result<()> {
        for (key, value) in records {
            self.send_to(0, Some(key), *value)?;
        }
        self.producer.flush()
    }

    fn send_to(&self, partition: i32, key: Option<&str>, value: Option<&str>) -> Result<()> {
        let (key, value) = (key.map(str::as_bytes), value.map(str::as_bytes));
        self.producer.send(&NewRecord { topic: &self.topic, partition, key, value, ..NewRecord::default() })
    }

    fn sql(&mut self, sql: &str) -> Result<()> {
        Ok(self.db.client.batch_execute(sql)?)
    }

    /// Creates a projection of the topic; `arguments` follow the table's name.
    fn project(&mut self, table: &str, arguments: &str) -> Result<()> {
        let sql = format!("SELECT inbox.project('p', $1, '{table}'{arguments})");
        self.db.client.execute(&sql, &[&self.topic])?;
        Ok(())
    }

    /// Waits until all that Kafka has is applied.
    fn settle(&mut self) -> Result<()> {
        settle(&mut self.db.client, "p")
    }

    /// The rows of a query, each as text.
    fn rows(&mut self, sql: &str) -> Result<Vec<String>> {
        rows(&mut self.db.client, sql)
    }

    /// Waits until a query has this result, each row as text.
    fn until(&mut self, sql: &str, expected: &[&str]) -> Result<()> {
        let mut last = Vec::new();
        let found = wait::until_ok(&format!("{sql} to be {expected:?}"), PROJECTED, || {
            last = rows(&mut self.db.client, sql)?;
            Ok((last == expected).then_some(()))
        });
        found.map_err(|error| error.context(format!("it is {last:?}")))
    }
}

fn settle(client: &mut Client, name: &str) -> Result<()> {
    let sql = format!("SELECT inbox.wait_projected('{name}', timeout => '40 s')");
    let is_projected: bool = client.query_one(&sql, &[])?.get(0);
    let state = rows(client, "SELECT row_to_json(p)::text FROM inbox.projections AS p")?;
    assert!(is_projected, "not applied: {state:?}");
    Ok(())
}

fn rows(client: &mut Client, sql: &str) -> Result<Vec<String>> {
    let rows = client.query(&format!("SELECT r::text FROM ({sql}) AS r"), &[])?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The message and the hint with which the server refuses the statement; both are there, and a detail.
fn refusal(client: &mut Client, sql: &str) -> (String, String) {
    let error = client.batch_execute(sql).expect_err(sql);
    let error = error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error}"));
    assert!(error.detail().is_some(), "{sql}: {error:?}");
    (error.message().to_owned(), error.hint().unwrap_or_else(|| panic!("{sql}: no hint")).to_owned())
}
