//! The limit: librdkafka alone produces the same records from memory.

use std::sync::Arc;
use std::thread::{JoinHandle, spawn};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow};

use super::producer::{Outgoing, Producer};
use super::{Contender, Headers};
use crate::events::{self, Load};
use crate::stage::{OUR_SOURCE, Stage};

/// A value as long as the extension's.
const CE_TIME: &str = "2026-01-01T00:00:00.123456Z";

/// Records in memory, and the thread that sends them.
pub struct Limit<'a> {
    stage: &'a Stage,
    headers: Headers,
    records: Arc<Records>,
    thread: Option<JoinHandle<Result<()>>>,
}

/// Texts of fixed width, one for each event, in a single allocation.
#[derive(Default)]
struct Records {
    topic: String,
    keys: Vec<String>,
    payloads: Vec<u8>,
    payload_bytes: usize,
    ids: Vec<u8>,
    id_bytes: usize,
    traces: Vec<u8>,
    trace_bytes: usize,
}

impl<'a> Limit<'a> {
    /// The limit; it needs no table.
    pub fn new(stage: &'a Stage, headers: Headers) -> Self {
        Self { stage, headers, records: Arc::default(), thread: None }
    }
}

impl Contender for Limit<'_> {
    fn name(&self) -> &'static str {
        match self.headers {
            Headers::Own => "rdkafka",
            Headers::CloudEvents => "rdkafka_cloudevents",
        }
    }

    fn fill(&mut self, load: &Load) -> Result<()> {
        let mut records = Records { topic: load.topic.clone(), ..Records::default() };
        for n in load.numbers.clone() {
            records.add(n, load.bytes);
        }
        self.records = Arc::new(records);
        Ok(())
    }

    fn open(&mut self) -> Result<()> {
        let (records, headers) = (self.records.clone(), self.headers);
        let producer = Producer::new(&self.stage.bootstrap_servers())?;
        producer.connect(&self.records.topic)?;
        self.thread = Some(spawn(move || produce(producer, &records, headers)));
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        let thread = self.thread.take().context("no producer is running")?;
        thread.join().map_err(|_| anyhow!("the producer panicked"))??;
        self.records = Arc::default();
        Ok(())
    }
}

impl Records {
    fn add(&mut self, n: i64, bytes: usize) {
        let (payload, id, trace) = (events::payload(n, bytes), events::id(n), events::trace(n));
        (self.payload_bytes, self.id_bytes, self.trace_bytes) = (payload.len(), id.len(), trace.len());
        self.keys.push(events::key(n));
        self.payloads.extend(payload.into_bytes());
        self.ids.extend(id.into_bytes());
        self.traces.extend(trace.into_bytes());
    }

    fn len(&self) -> usize {
        self.keys.len()
    }
}

fn piece(all: &[u8], width: usize, at: usize) -> &[u8] {
    &all[at * width..(at + 1) * width]
}

fn produce(mut producer: Producer, records: &Records, headers: Headers) -> Result<()> {
    let timestamp_ms = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
    for at in 0..records.len() {
        let record = Outgoing {
            topic: &records.topic,
            key: records.keys[at].as_bytes(),
            payload: piece(&records.payloads, records.payload_bytes, at),
            timestamp_ms,
        };
        let id = piece(&records.ids, records.id_bytes, at);
        let own = [("id", id), ("trace", piece(&records.traces, records.trace_bytes, at))];
        match headers {
            Headers::Own => producer.send(&record, own.into_iter())?,
            Headers::CloudEvents => {
                let envelope = [
                    ("ce_specversion", b"1.0".as_slice()),
                    ("ce_id", id),
                    ("ce_source", OUR_SOURCE.as_bytes()),
                    ("ce_type", records.topic.as_bytes()),
                    ("ce_time", CE_TIME.as_bytes()),
                    ("content-type", b"application/json"),
                ];
                producer.send(&record, envelope.into_iter().chain(own))?;
            }
        }
    }
    producer.flush()
}
