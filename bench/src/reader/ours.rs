//! The inbox as a contender.

use std::time::Duration;

use anyhow::{Context, Result};
use event_outbox_lab::wait;
use postgres::{Client, Statement};

use super::{Reader, table};
use crate::events::Load;
use crate::stage::{OURS, Stage};

const DEADLINE: Duration = Duration::from_secs(60);

const SUBSCRIBE: &str = "SELECT inbox.subscribe('bench', ARRAY[$1], 'earliest')";
const STORED: &str = "
SELECT (SELECT p.last_position FROM inbox.progress AS p WHERE p.source_id = s.id ORDER BY p.batch DESC LIMIT 1)
       - s.first_position
  FROM inbox.subscription AS s WHERE s.name = 'bench'";
const WORKER: &str = "
SELECT pid IS NULL, coalesce(state = 'idle', false) FROM inbox.consumers WHERE database = current_database()";
const EMPTY: &str = "TRUNCATE inbox.log_0, inbox.log_1, inbox.log_2, inbox.log_3, inbox.log_4, inbox.log_5, inbox.log_6, inbox.log_7";

/// The inbox in the database `ours`, with a subscription while it runs.
pub struct Inbox {
    client: Client,
    stored: Statement,
}

impl Inbox {
    /// Starts the relay, which finds the offsets of a new subscription.
    pub fn new(stage: &Stage) -> Result<Self> {
        stage.configure("event_outbox.enabled", "on")?;
        let mut client = stage.connect(OURS)?;
        let stored = client.prepare(STORED)?;
        wait::until_ok("an idle relay", DEADLINE, || {
            let idle = "SELECT coalesce(state = 'idle', false) FROM outbox.status";
            Ok(client.query_one(idle, &[])?.get::<_, bool>(0).then_some(()))
        })?;
        Ok(Self { client, stored })
    }

    /// Waits until all that Kafka has is stored.
    pub fn until_idle(&mut self) -> Result<()> {
        wait::until_ok("an idle worker", DEADLINE, || {
            Ok(self.client.query_one(WORKER, &[])?.get::<_, bool>(1).then_some(()))
        })
    }

    /// The process id of the worker.
    pub fn pid(&mut self) -> Result<u32> {
        let pid = "SELECT pid FROM inbox.consumers WHERE database = current_database()";
        Ok(u32::try_from(self.client.query_one(pid, &[])?.get::<_, i32>(0))?)
    }

    /// Ends the subscription, and empties the log.
    pub fn end(&mut self) -> Result<()> {
        self.client.batch_execute("SELECT inbox.unsubscribe('bench')")?;
        // The worker ends with the last subscription. Then no one else writes the log.
        wait::until_ok("the worker to end", DEADLINE, || {
            Ok(self.client.query_one(WORKER, &[])?.get::<_, bool>(0).then_some(()))
        })?;
        Ok(self.client.batch_execute(EMPTY)?)
    }
}

impl Reader for Inbox {
    fn name(&self) -> &'static str {
        "ours"
    }

    fn open(&mut self, topic: &str) -> Result<()> {
        self.client.execute(SUBSCRIBE, &[&topic]).context("inbox.subscribe")?;
        Ok(())
    }

    fn stored(&mut self) -> Result<u64> {
        let row = self.client.query_one(&self.stored, &[])?;
        Ok(u64::try_from(row.get::<_, Option<i64>>(0).unwrap_or(0))?)
    }

    fn close(&mut self, load: &Load) -> Result<()> {
        table::ensure_exact(&mut self.client, "inbox.log", load)?;
        self.end()
    }
}
