//! What a consumer in Rust can reach that does nothing else: it keeps the last record of each key in memory, and upserts these in
//! large transactions, with its offsets. It stores no record, looks at none, and has nowhere to put one that the table refuses.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, spawn};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use postgres::Client;
use rdkafka::consumer::BaseConsumer;
use rdkafka::message::Message;

use super::Reader;
use super::copying::consumer;
use super::upsert::Latest;
use crate::events::Load;
use crate::stage::{PARTITIONS, PEERS, Stage};

/// The most records of a transaction, as of a projection's.
const BATCH: usize = 1_000_000;
/// A transaction ends when no record has come for this long.
const POLL: Duration = Duration::from_millis(100);

const OFFSETS: &str = "
DROP TABLE IF EXISTS reducing_offsets;
CREATE TABLE reducing_offsets (batch bigint PRIMARY KEY, next_offsets bigint[])";

const UPSERT: &str = "
INSERT INTO latest AS l (id, value, of_partition, at_offset)
SELECT * FROM unnest($1::text[], $2::text[], $3::integer[], $4::bigint[])
    ON CONFLICT (id) DO UPDATE
   SET value = excluded.value, of_partition = excluded.of_partition, at_offset = excluded.at_offset";

/// The table, and the consumer while it runs.
pub struct Reducing<'a> {
    stage: &'a Stage,
    latest: Latest,
    running: Option<(Arc<AtomicBool>, JoinHandle<Result<()>>)>,
}

impl<'a> Reducing<'a> {
    /// The contender; its tables come with each run.
    pub fn new(stage: &'a Stage) -> Result<Self> {
        Ok(Self { stage, latest: Latest::new(stage, PEERS)?, running: None })
    }
}

impl Reader for Reducing<'_> {
    fn name(&self) -> &'static str {
        "rust_bare"
    }

    fn open(&mut self, topic: &str) -> Result<()> {
        self.latest.create()?;
        let mut client = self.stage.connect(PEERS)?;
        client.batch_execute(OFFSETS)?;
        let consumer = consumer(&self.stage.bootstrap_servers(), topic)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        self.running = Some((stop, spawn(move || follow(client, &consumer, &stopped))));
        Ok(())
    }

    fn stored(&mut self) -> Result<u64> {
        self.latest.applied()
    }

    fn close(&mut self, load: &Load) -> Result<()> {
        let (stop, thread) = self.running.take().context("the consumer is not running")?;
        stop.store(true, Ordering::Relaxed);
        thread.join().map_err(|_| anyhow!("the consumer panicked"))??;
        self.latest.ensure_latest(load)?;
        self.latest.create()
    }
}

/// The last record of each key: its value, partition and offset.
type Last = HashMap<Vec<u8>, (Vec<u8>, i32, i64)>;

fn follow(mut client: Client, consumer: &BaseConsumer, stop: &AtomicBool) -> Result<()> {
    let mut next_offsets = vec![0_i64; usize::try_from(PARTITIONS)?];
    let mut batch = 0_i64;
    while !stop.load(Ordering::Relaxed) {
        let last = read(consumer, &mut next_offsets)?;
        if last.is_empty() {
            continue;
        }
        let mut columns = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (key, (value, partition, offset)) in &last {
            columns.0.push(std::str::from_utf8(key)?);
            columns.1.push(std::str::from_utf8(value)?);
            columns.2.push(*partition);
            columns.3.push(*offset);
        }
        batch += 1;
        let mut transaction = client.transaction()?;
        transaction.execute(UPSERT, &[&columns.0, &columns.1, &columns.2, &columns.3])?;
        transaction.execute("INSERT INTO reducing_offsets VALUES ($1, $2)", &[&batch, &next_offsets])?;
        transaction.commit()?;
    }
    Ok(())
}

fn read(consumer: &BaseConsumer, next_offsets: &mut [i64]) -> Result<Last> {
    let mut last = Last::new();
    for _ in 0..BATCH {
        let Some(record) = consumer.poll(POLL) else { break };
        let record = record?;
        let (partition, offset) = (record.partition(), record.offset());
        next_offsets[usize::try_from(partition)?] = offset + 1;
        let key = record.key().context("a record without a key")?;
        let value = record.payload().unwrap_or_default();
        match last.get_mut(key) {
            Some(kept) => {
                kept.0.clear();
                kept.0.extend_from_slice(value);
                (kept.1, kept.2) = (partition, offset);
            }
            None => drop(last.insert(key.to_vec(), (value.to_vec(), partition, offset))),
        }
    }
    Ok(last)
}
