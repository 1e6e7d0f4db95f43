//! Reads a broker that keeps little, while it is being tortured.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, spawn};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};

use super::clock;
use super::evidence::Seen;
use crate::{Consumer, Record};

/// When nothing has come for so long at the end, all has come: the outbox is empty by then.
const SILENCE: Duration = Duration::from_secs(3);

/// How long a consumer may fail in a row.
const PATIENCE: Duration = Duration::from_secs(120);

/// A thread that reads.
pub struct Reader {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Vec<Seen>>>,
}

impl Reader {
    /// Begins to read topics from their beginning.
    pub fn start(bootstrap_servers: &str, topics: &[String]) -> Result<Self> {
        let names: Vec<&str> = topics.iter().map(String::as_str).collect();
        let consumer = Consumer::new(bootstrap_servers, &names)?;
        let numbers = numbered(topics);
        let stop = Arc::new(AtomicBool::new(false));
        let until = stop.clone();
        Ok(Self { stop, thread: spawn(move || read(consumer, &numbers, &until)) })
    }

    /// Ends when all has been read; gives all.
    pub fn stop(self) -> Result<Vec<Seen>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the reader panicked"))?
    }
}

/// The topics' numbers by their names.
pub fn numbered(topics: &[String]) -> HashMap<String, usize> {
    topics.iter().enumerate().map(|(number, topic)| (topic.clone(), number)).collect()
}

fn read(mut consumer: Consumer, numbers: &HashMap<String, usize>, stop: &AtomicBool) -> Result<Vec<Seen>> {
    let mut seen: Vec<Seen> = Vec::new();
    // A consumer that has lost its place would read again what it has read.
    let mut next: HashMap<(usize, i32), i64> = HashMap::new();
    let (mut last, mut answered) = (Instant::now(), Instant::now());
    loop {
        let record: Option<Record> = match consumer.next() {
            Ok(record) => {
                answered = Instant::now();
                record
            }
            Err(error) => {
                ensure!(answered.elapsed() < PATIENCE, "the reader fails: {error:#}");
                None
            }
        };
        if let Some(record) = record
            && let Some(topic) = numbers.get(&record.topic).copied()
        {
            last = Instant::now();
            let next = next.entry((topic, record.partition)).or_default();
            if record.offset >= *next {
                ensure!(record.offset == *next, "records were deleted before they were read: {record:?}");
                *next += 1;
                seen.push(Seen::of(&record, topic, 0, Some(clock::now())));
            }
        }
        if stop.load(Ordering::Relaxed) && last.elapsed() > SILENCE {
            return Ok(seen);
        }
    }
}
