//! The polling relay that most teams write: it locks a batch of rows, produces them, waits for the acknowledgements,
//! deletes the rows and commits. When the batch was not full, it sleeps.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use event_outbox_lab::wait;
use postgres::Client;
use serde_json::Value;

use super::producer::{Outgoing, Producer};
use super::{Contender, Outbox};
use crate::events::{self, Load};
use crate::processes::{self, Work};
use crate::stage::{PEERS, Stage};

/// The number of rows in one transaction. Teams choose 100 to 1000.
const BATCH: usize = 1000;
/// The time before the next poll. Teams choose 100 ms to some seconds.
const INTERVAL: Duration = Duration::from_millis(100);
const DEADLINE: Duration = Duration::from_secs(60);

const TABLE: &str = "
CREATE TABLE IF NOT EXISTS polled_outbox (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic      text NOT NULL,
    key        text,
    payload    text NOT NULL,
    headers    json,
    created_at timestamptz NOT NULL DEFAULT now()
)";

const INSERT: &str = "
INSERT INTO polled_outbox (topic, key, payload, headers)
SELECT $1, made_key(n), made_payload(n, $4, $5), made_headers(n)::json
  FROM generate_series($2::bigint, $3::bigint) AS n";

const INSERT_ONE: &str = "
INSERT INTO polled_outbox (topic, key, payload, headers)
VALUES ($1, made_key($2), made_payload($2), made_headers($2)::json)";

const LOCK: &str = "
SELECT id, topic, key, payload, headers::text, (extract(epoch FROM created_at) * 1000)::bigint
  FROM polled_outbox ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED";

const DELETE: &str = "DELETE FROM polled_outbox WHERE id = ANY($1)";

/// The table, and the relay while it runs.
pub struct Polling<'a> {
    stage: &'a Stage,
    client: Client,
    relay: Option<Relay>,
}

struct Relay {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
    threads_before: BTreeSet<u32>,
}

impl<'a> Polling<'a> {
    /// Creates its table in the database of the peers.
    pub fn new(stage: &'a Stage) -> Result<Self> {
        let mut client = stage.connect(PEERS)?;
        client.batch_execute(TABLE)?;
        Ok(Self { stage, client, relay: None })
    }
}

impl Contender for Polling<'_> {
    fn name(&self) -> &'static str {
        "polling"
    }

    fn fill(&mut self, load: &Load) -> Result<()> {
        let (bytes, filling) = (i32::try_from(load.bytes)?, events::filling(load.bytes));
        self.client
            .execute(INSERT, &[&load.topic, load.numbers.start(), load.numbers.end(), &bytes, &filling])?;
        Ok(())
    }

    fn open(&mut self) -> Result<()> {
        let threads_before = processes::threads()?;
        let stop = Arc::new(AtomicBool::new(false));
        let client = self.stage.connect(PEERS)?;
        let producer = Producer::new(&self.stage.bootstrap_servers())?;
        let stopped = stop.clone();
        let thread = spawn(move || relay(client, producer, &stopped));
        self.relay = Some(Relay { stop, thread, threads_before });
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        let relay = self.relay.take().context("no polling relay is running")?;
        relay.stop.store(true, Ordering::Relaxed);
        relay.thread.join().map_err(|_| anyhow!("the polling relay panicked"))??;
        Ok(self.client.batch_execute("TRUNCATE polled_outbox")?)
    }
}

impl Outbox for Polling<'_> {
    fn database(&self) -> &'static str {
        PEERS
    }

    fn insert_one(&self) -> &'static str {
        INSERT_ONE
    }

    fn relay(&mut self) -> Result<Work> {
        let relay = self.relay.as_ref().context("no polling relay is running")?;
        Ok(Work::Threads(&processes::threads()? - &relay.threads_before))
    }

    fn rest(&mut self) -> Result<()> {
        let empty = "SELECT NOT EXISTS (SELECT FROM polled_outbox)";
        wait::until_ok("polled_outbox to be empty", DEADLINE, || {
            Ok(self.client.query_one(empty, &[])?.get::<_, bool>(0).then_some(()))
        })
    }
}

/// Runs until it is stopped and no row is left.
fn relay(mut client: Client, mut producer: Producer, stop: &AtomicBool) -> Result<()> {
    let lock = client.prepare(LOCK)?;
    let delete = client.prepare(DELETE)?;
    loop {
        let mut transaction = client.transaction()?;
        let rows = transaction.query(&lock, &[&(BATCH as i64)])?;
        let mut ids: Vec<i64> = Vec::with_capacity(rows.len());
        for row in &rows {
            ids.push(row.get(0));
            let headers: Value = serde_json::from_str(row.get(4))?;
            let record = Outgoing {
                topic: row.get(1),
                key: row.get::<_, &str>(2).as_bytes(),
                payload: row.get::<_, &str>(3).as_bytes(),
                timestamp_ms: row.get(5),
            };
            let headers = headers.as_object().into_iter().flatten();
            producer.send(
                &record,
                headers.map(|(name, value)| (name.as_str(), value.as_str().unwrap_or_default().as_bytes())),
            )?;
        }
        producer.flush()?;
        if !ids.is_empty() {
            transaction.execute(&delete, &[&ids])?;
        }
        transaction.commit()?;
        if ids.is_empty() && stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        if ids.len() < BATCH {
            sleep(INTERVAL);
        }
    }
}
