//! The memory of the worker while it stores large, compressed records of many partitions.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use event_outbox_lab::wait;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use super::super::Bench;
use crate::arrival;
use crate::contender::producer;
use crate::events::{self, Load};
use crate::memory::Memory;
use crate::reader::Reader;
use crate::reader::ours::Inbox;
use crate::stage::{OURS, Stage, Wal};

const PARTITIONS: i32 = 500;
const RECORD_BYTES: usize = 1_000_000;
/// The number of records, of a full run and a quick one.
const RECORDS: (u64, u64) = (1000, 250);
const TOPIC: &str = "inbox-memory";
const SMALL_TOPIC: &str = "inbox-memory-idle";
const PRODUCE_DEADLINE: Duration = Duration::from_secs(120);

const SUBSCRIBE: &str = "SELECT inbox.subscribe('idle', ARRAY[$1], 'earliest')";
const UNSUBSCRIBE: &str = "SELECT inbox.unsubscribe('idle')";

/// Compares the worker with one that has a small topic and nothing to do.
pub fn run(bench: &mut Bench) -> Result<()> {
    bench.stage.restart(Wal::Replica)?;
    let records = bench.size(RECORDS.0, RECORDS.1);
    let stage = &bench.stage;
    fill(stage, records).context("filling the topic")?;
    super::produce(stage, &Load::new(SMALL_TOPIC, 1))?;
    let mut inbox = Inbox::new(stage)?;
    let mut client = stage.connect(OURS)?;
    client.execute(SUBSCRIBE, &[&SMALL_TOPIC])?;
    inbox.until_idle()?;
    let memory = Arc::new(Memory::default());
    let worker = inbox.pid()?;
    memory.note_idle(worker);
    let looking = memory.look(worker);
    let begin = Instant::now();
    inbox.open(TOPIC)?;
    let arrival = arrival::until("records were stored", records, begin, || inbox.stored(), |_| {})?;
    ensure!(inbox.pid()? == worker, "the worker was restarted");
    drop(looking);
    client.batch_execute(UNSUBSCRIBE)?;
    inbox.end()?;
    stage.remove_topic(TOPIC)?;
    stage.remove_topic(SMALL_TOPIC)?;
    let [idle, peak] = memory.megabytes();
    bench.figures.set("inbox.memory.idle_mb", idle);
    bench.figures.set("inbox.memory.peak_mb", peak);
    bench.figures.set("inbox.memory.over_idle_mb", (peak - idle).max(0.0));
    bench.figures.set("inbox.memory.stored_mb_s", arrival.rate() * RECORD_BYTES as f64 / 1e6);
    eprintln!("    memory of the worker: {idle:.1} MB idle, {peak:.1} MB at most");
    Ok(())
}

/// Creates the topic and fills it, so that its partitions have as many records each.
fn fill(stage: &Stage, records: u64) -> Result<()> {
    stage.broker().create_topic(TOPIC, PARTITIONS, &[])?;
    let mut config = producer::config(&stage.bootstrap_servers());
    let producer: BaseProducer = config.set("compression.type", "zstd").create()?;
    for (n, partition) in (1..=records.cast_signed()).zip((0..PARTITIONS).cycle()) {
        let (key, payload) = (events::key(n), events::payload(n, RECORD_BYTES));
        let record = BaseRecord::to(TOPIC).partition(partition).key(&key).payload(&payload);
        producer.send(record).map_err(|(error, _)| error)?;
        producer.poll(Duration::ZERO);
        // Few at a time, that they are not all in this process's memory.
        wait::until("room in the producer", PRODUCE_DEADLINE, || {
            producer.poll(Duration::ZERO);
            (producer.in_flight_count() < 50).then_some(())
        })?;
    }
    producer.flush(PRODUCE_DEADLINE)?;
    Ok(())
}
