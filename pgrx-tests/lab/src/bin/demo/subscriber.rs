//! The other database: it receives the events, and a handler stores each in its own transaction.

use std::time::Duration;

use anyhow::Context;
use event_outbox_lab::progress::{passed, passing};
use event_outbox_lab::{Cluster, Result, wait};
use postgres::Client;

const DATABASE: &str = "subscriber";
const DEADLINE: Duration = Duration::from_secs(120);

/// A connection to it.
pub struct Subscriber(Client);

/// What it has received.
pub struct Received {
    pub events: usize,
    /// Events that were received once more.
    pub repeated: usize,
    /// Events that were received after a later one of their key.
    pub out_of_order: usize,
}

impl Subscriber {
    /// Creates the database, which subscribes to the topic.
    pub fn create(cluster: &Cluster) -> Result<Self> {
        cluster.connect("postgres")?.batch_execute(&format!("CREATE DATABASE {DATABASE}"))?;
        let mut client = cluster.connect(DATABASE)?;
        client.batch_execute("CREATE EXTENSION event_outbox")?;
        client.batch_execute(include_str!("../../../demo/subscriber.sql")).context("subscriber.sql")?;
        Ok(Self(client))
    }

    /// Waits until it has received as many events, and counts them.
    pub fn received(&mut self, published: usize) -> Result<Received> {
        let result = wait::until_ok("all events to be received", DEADLINE, || {
            let count = self.count("SELECT count(*) FROM received")?;
            passing(&format!("{count} of {published} received"));
            Ok((count >= published).then_some(()))
        });
        passed();
        result?;
        Ok(Received {
            events: self.count("SELECT count(*) FROM received")?,
            repeated: self.count("SELECT count(*) - count(DISTINCT event_id) FROM received")?,
            out_of_order: self.count(
                "SELECT count(*) FROM (SELECT \"offset\" < lag(\"offset\") OVER (PARTITION BY key ORDER BY id) AS is_late
                                         FROM received) AS r
                  WHERE is_late",
            )?,
        })
    }

    fn count(&mut self, sql: &str) -> Result<usize> {
        Ok(usize::try_from(self.0.query_one(sql, &[])?.get::<_, i64>(0))?)
    }
}
