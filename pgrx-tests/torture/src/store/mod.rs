//! The event store under faults: sessions append to streams, a handler and a reader follow them, and a judge compares what was
//! appended with what is in the store, what was handled, read and published.
//!
//! It takes place in the database that receives, whose inbox worker has faults of its own.

mod appender;
mod commands;
mod judge;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use appender::Appender;
pub use judge::Findings;

use crate::dial::Dial;
use crate::journal::Ending;
use crate::kafka::Kafka;
use crate::receivers::DATABASE;
use event_outbox_lab::{Cluster, wait};

/// The subscription to the streams.
pub const SUBSCRIPTION: &str = "store";
/// The topic of the events that are published, too.
const TOPIC: &str = "torture.store";
const PARTITIONS: i32 = 3;
const SETUP: &str = include_str!("setup.sql");

/// How many sessions append.
const APPENDERS: usize = 3;

/// How long an appender, or the reader, may take at the end for what it has begun.
const LAST_DEADLINE: Duration = Duration::from_secs(60);
/// How long to wait without a server, or without anything to read.
const PAUSE: Duration = Duration::from_millis(50);

const SESSION: &str = "SET lock_timeout = '2s'; SET statement_timeout = '30s'; SET deadlock_timeout = '50ms'; \
                       SET log_min_messages = fatal; SET application_name = 'torture appender'";

/// Goes on after the last position that it has got, which a crash takes back together with the rows.
const READ: &str = "INSERT INTO torture.store_read (position, stream, version) \
                    SELECT r.position, r.stream, r.version FROM event_store.read_all( \
                        (SELECT max(k.position) FROM torture.store_read AS k), 700) AS r";

/// An event that an appender has tried to append.
#[derive(Clone, Debug)]
struct Appended {
    /// The transaction, and the number of the event in it: they are in the event's data.
    id: (i64, i64),
    stream: String,
    is_emitted: bool,
}

/// What one appender, or all, remember.
#[derive(Debug, Default)]
struct Journal {
    events: Vec<Appended>,
    endings: HashMap<i64, Ending>,
    /// Appends that the store has refused because of their expectation.
    conflicts: usize,
    /// Commands that were repeated though they had succeeded.
    retries: usize,
    /// What must not be.
    wrong: Vec<String>,
}

impl Journal {
    fn merge(&mut self, other: Journal) {
        self.events.extend(other.events);
        self.endings.extend(other.endings);
        self.conflicts += other.conflicts;
        self.retries += other.retries;
        self.wrong.extend(other.wrong);
    }
}

/// Appenders and the reader at work.
pub struct Store {
    stop: Arc<AtomicBool>,
    appenders: Vec<JoinHandle<Result<Journal>>>,
    reader: JoinHandle<Result<()>>,
    /// Whether the reader shall end when there is nothing more.
    ends_reader: Arc<AtomicBool>,
}

/// What was appended.
pub struct Stopped {
    journal: Journal,
    reader: JoinHandle<Result<()>>,
    ends_reader: Arc<AtomicBool>,
}

impl Store {
    /// Starts appending. The receivers have created the database.
    pub fn start(seed: u64, cluster: &Cluster, kafka: &Kafka) -> Result<Self> {
        kafka.create_topic(TOPIC, PARTITIONS, &[])?;
        let mut client = cluster.connect(DATABASE)?;
        client.batch_execute(SETUP).context("setup.sql of the store")?;
        let dial = Dial::new(cluster, DATABASE);
        let (stop, ends_reader) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let appenders = (1..=APPENDERS).map(|number| {
            let appender = Appender::new(number, seed, dial.clone(), Arc::clone(&stop));
            spawn(move || appender.work())
        });
        let appenders = appenders.collect();
        let ends = Arc::clone(&ends_reader);
        let reader = spawn(move || read(&dial, &ends));
        Ok(Self { stop, appenders, reader, ends_reader })
    }

    /// Stops the appenders once they have finished all transactions. The server must be up.
    pub fn stop(self) -> Result<Stopped> {
        self.stop.store(true, Ordering::Relaxed);
        let mut journal = Journal::default();
        for thread in self.appenders {
            journal.merge(thread.join().map_err(|_| anyhow!("an appender panicked"))??);
        }
        Ok(Stopped { journal, reader: self.reader, ends_reader: self.ends_reader })
    }
}

impl Stopped {
    /// Judges. The receivers have handled everything; `bootstrap_servers` have what was published.
    pub fn judge(self, cluster: &Cluster, bootstrap_servers: &str, patience: Duration) -> Result<Findings> {
        self.ends_reader.store(true, Ordering::Relaxed);
        self.reader.join().map_err(|_| anyhow!("the reader of the store panicked"))??;
        let mut client = cluster.connect(DATABASE)?;
        wait::until_ok("what was appended to be published", patience, || {
            let sql = "SELECT count(*) = 0 FROM outbox.events";
            Ok(client.query_one(sql, &[])?.get::<_, bool>(0).then_some(()))
        })?;
        judge::judge(&self.journal, &mut client, bootstrap_servers)
    }
}

/// Reads the whole store, page by page, while it grows; at the end, until nothing more comes.
fn read(dial: &Dial, ends: &AtomicBool) -> Result<()> {
    let mut client = None;
    let mut page = || {
        if client.is_none() {
            client = dial.connect(SESSION);
        }
        let read = client.as_mut().and_then(|client| client.execute(READ, &[]).ok());
        if read.is_none() {
            client = None;
        }
        read
    };
    while !ends.load(Ordering::Relaxed) {
        if page().is_none_or(|rows| rows == 0) {
            sleep(PAUSE);
        }
    }
    wait::until("the reader of the store to come to its end", LAST_DEADLINE, || (page()? == 0).then_some(()))
}
