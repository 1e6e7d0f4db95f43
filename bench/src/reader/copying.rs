//! A consumer in Rust as a careful team writes it: it polls a batch of records, copies them in the binary format into a table
//! like the inbox's, and adds a row of offsets in the same transaction.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, spawn};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, anyhow};
use event_outbox_policy::inbox::lanes::Ordering as Lanes;
use event_outbox_policy::inbox::records;
use postgres::binary_copy::BinaryCopyInWriter;
use postgres::types::{ToSql, Type};
use postgres::{Client, Transaction};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{Offset, TopicPartitionList};

use super::{Reader, table};
use crate::events::Load;
use crate::stage::{PARTITIONS, PEERS, Stage};

/// The number of records in one transaction, at most.
const BATCH: usize = 10_000;
const POLL: Duration = Duration::from_millis(20);

const TABLE: &str = "copying";
const COPY: &str = "COPY copying_log FROM STDIN (FORMAT BINARY)";
const PROGRESS: &str = "INSERT INTO copying_progress (batch, next_offsets, stored) VALUES ($1, $2, $3)";

/// The settings in which the extension's consumer differs from librdkafka's defaults.
const SETTINGS: [(&str, &str); 6] = [
    ("group.id", "event_outbox_bench"),
    ("enable.auto.commit", "false"),
    ("isolation.level", "read_committed"),
    ("fetch.queue.backoff.ms", "10"),
    ("check.crcs", "true"),
    ("log_level", "0"),
];

/// The tables, and the consumer while it runs.
pub struct Copying<'a> {
    stage: &'a Stage,
    client: Client,
    running: Option<Running>,
}

struct Running {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
}

impl<'a> Copying<'a> {
    /// The contender; its tables come with each run.
    pub fn new(stage: &'a Stage) -> Result<Self> {
        Ok(Self { stage, client: stage.connect(PEERS)?, running: None })
    }
}

impl Reader for Copying<'_> {
    fn name(&self) -> &'static str {
        "rust_copy"
    }

    fn open(&mut self, topic: &str) -> Result<()> {
        table::create(&mut self.client, TABLE)?;
        let mut client = self.stage.connect(PEERS)?;
        // A commit that is lost is read again from Kafka. The inbox relies on that as well.
        client.batch_execute("SET synchronous_commit = off")?;
        let consumer = consumer(&self.stage.bootstrap_servers(), topic)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = spawn(move || store(client, &consumer, &stopped));
        self.running = Some(Running { stop, thread });
        Ok(())
    }

    fn stored(&mut self) -> Result<u64> {
        table::stored(&mut self.client, TABLE)
    }

    fn close(&mut self, load: &Load) -> Result<()> {
        let running = self.running.take().context("the consumer is not running")?;
        running.stop.store(true, Ordering::Relaxed);
        running.thread.join().map_err(|_| anyhow!("the consumer panicked"))??;
        table::ensure_exact(&mut self.client, "copying_log", load)?;
        table::create(&mut self.client, TABLE)
    }
}

/// A consumer at the beginning of a topic, with the extension's settings.
pub fn consumer(bootstrap_servers: &str, topic: &str) -> Result<BaseConsumer> {
    let mut config = ClientConfig::new();
    for (name, value) in SETTINGS {
        config.set(name, value);
    }
    let consumer: BaseConsumer = config.set("bootstrap.servers", bootstrap_servers).create()?;
    let mut all = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        all.add_partition_offset(topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&all)?;
    Ok(consumer)
}

/// Runs until it is stopped.
fn store(mut client: Client, consumer: &BaseConsumer, stop: &AtomicBool) -> Result<()> {
    let progress = client.prepare(PROGRESS)?;
    let mut next_offsets = vec![0_i64; usize::try_from(PARTITIONS)?];
    let (mut batch, mut position) = (0_i64, 0_i64);
    while !stop.load(Ordering::Relaxed) {
        let records = read(consumer)?;
        if records.is_empty() {
            continue;
        }
        let mut transaction = client.transaction()?;
        copy(&mut transaction, &records, position)?;
        for record in &records {
            next_offsets[usize::try_from(record.partition())?] = record.offset() + 1;
        }
        batch += 1;
        position += records.len() as i64;
        transaction.execute(&progress, &[&batch, &next_offsets, &position])?;
        transaction.commit()?;
    }
    Ok(())
}

/// The records that are there, up to a batch. Waits only for the first one.
fn read(consumer: &BaseConsumer) -> Result<Vec<BorrowedMessage<'_>>> {
    let mut records = Vec::new();
    while records.len() < BATCH {
        let wait = if records.is_empty() { POLL } else { Duration::ZERO };
        match consumer.poll(wait) {
            Some(record) => records.push(record?),
            None => break,
        }
    }
    Ok(records)
}

fn copy(transaction: &mut Transaction<'_>, records: &[BorrowedMessage<'_>], after: i64) -> Result<()> {
    const TYPES: [Type; 9] = [
        Type::INT4,
        Type::INT2,
        Type::INT8,
        Type::INT4,
        Type::INT8,
        Type::TIMESTAMPTZ,
        Type::BYTEA,
        Type::BYTEA,
        Type::BYTEA,
    ];
    let mut rows = BinaryCopyInWriter::new(transaction.copy_in(COPY)?, &TYPES);
    let mut headers = Vec::new();
    for (record, position) in records.iter().zip(after + 1..) {
        headers.clear();
        for header in record.headers().into_iter().flat_map(Headers::iter) {
            records::pack_header(&mut headers, header.key.as_bytes(), header.value);
        }
        let lane = i16::try_from(Lanes::Key.lane(record.key(), record.partition(), record.offset()))?;
        let produced_at = record.timestamp().to_millis().and_then(|millis| u64::try_from(millis).ok());
        let produced_at = produced_at.map(|millis| SystemTime::UNIX_EPOCH + Duration::from_millis(millis));
        let row: [&(dyn ToSql + Sync); 9] = [
            &1_i32,
            &lane,
            &position,
            &record.partition(),
            &record.offset(),
            &produced_at,
            &record.key(),
            &record.payload(),
            &headers,
        ];
        rows.write(&row)?;
    }
    rows.finish()?;
    Ok(())
}
