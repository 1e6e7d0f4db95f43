//! Reads the mock cluster during the test, since it keeps few records.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, spawn};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};

use super::clock;
use super::evidence::Seen;
use event_outbox_lab::{Consumer, Record};

/// After this long without a record, another consumer replaces one that may be stuck.
const SILENCE: Duration = Duration::from_secs(5);

/// How long a request may wait for a broker that may be down.
const ASK: Duration = Duration::from_secs(1);

/// How long the last records may take to arrive when all are published.
const LAST: Duration = Duration::from_secs(90);

/// How often the reader checks at the end whether it has read everything.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// A thread that reads.
pub struct Reader {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Vec<Seen>>>,
}

/// The state of the thread.
struct Reading {
    bootstrap_servers: String,
    topics: Vec<String>,
    seen: Vec<Seen>,
    /// The offset of the next record of each partition: a new consumer reads from the beginning.
    next: HashMap<(String, i32), i64>,
}

impl Reader {
    /// Starts to read topics from their beginning.
    pub fn start(bootstrap_servers: &str, topics: &[String]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let until = stop.clone();
        let reading = Reading {
            bootstrap_servers: bootstrap_servers.into(),
            topics: topics.to_vec(),
            seen: Vec::new(),
            next: HashMap::new(),
        };
        Self { stop, thread: spawn(move || reading.read(&until)) }
    }

    /// Ends when everything has been read; returns all records.
    pub fn stop(self) -> Result<Vec<Seen>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the reader panicked"))?
    }
}

impl Reading {
    fn read(mut self, stop: &AtomicBool) -> Result<Vec<Seen>> {
        let mut stopped: Option<Instant> = None;
        loop {
            let names: Vec<&str> = self.topics.iter().map(String::as_str).collect();
            let mut consumer = Consumer::new(&self.bootstrap_servers, &names)?.ask_within(ASK);
            let mut last = Instant::now();
            let mut asked = Instant::now();
            while last.elapsed() < SILENCE {
                // An error comes from a fault.
                if let Ok(Some(record)) = consumer.next_record() {
                    last = Instant::now();
                    self.keep(&record)?;
                }
                if stopped.is_none() && stop.load(Ordering::Relaxed) {
                    stopped = Some(Instant::now());
                }
                if stopped.is_some() && asked.elapsed() > ASK_EVERY {
                    asked = Instant::now();
                    if self.has_all(&consumer) {
                        return Ok(self.seen);
                    }
                }
            }
            ensure!(stopped.is_none_or(|stopped| stopped.elapsed() < LAST), "not all could be read");
        }
    }

    fn keep(&mut self, record: &Record) -> Result<()> {
        let Some(topic) = self.topics.iter().position(|topic| *topic == record.topic) else { return Ok(()) };
        let next = self.next.entry((record.topic.clone(), record.partition)).or_default();
        if record.offset >= *next {
            ensure!(record.offset == *next, "records were deleted before they were read: {record:?}");
            *next += 1;
            self.seen.push(Seen::of(record, topic, 0, Some(clock::now())));
        }
        Ok(())
    }

    /// Whether every partition was read to its end.
    fn has_all(&self, consumer: &Consumer) -> bool {
        consumer.ends().is_ok_and(|ends| {
            self.topics.iter().all(|topic| ends.keys().any(|(name, _)| name == topic))
                && ends.iter().all(|(partition, end)| self.next.get(partition).copied().unwrap_or(0) >= *end)
        })
    }
}
