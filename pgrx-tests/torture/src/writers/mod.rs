//! The writers: many at once, each with its own connection and its own journal.

mod by_hand;
mod events;
mod pulse;
mod refused;
mod transactions;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Duration;

use anyhow::{Result, anyhow};
use postgres::Client;

pub use pulse::Pulse;

use super::dial::Dial;
use super::journal::{Ending, Journal};
use super::random::Random;
use super::topics;
use event_outbox_lab::wait;

/// How long a writer without a server waits before it tries again.
const RECONNECT: Duration = Duration::from_millis(50);

/// How long a writer waits at the end for a server that lets it end what it has prepared.
const LAST_DEADLINE: Duration = Duration::from_secs(60);

/// A writer that waits for another's row gives up before it holds up everybody.
const SESSION: &str = "SET lock_timeout = '1s'; SET statement_timeout = '30s'; SET deadlock_timeout = '50ms'; \
                       SET log_min_messages = fatal";

/// What the writers do, in shares of a thousand.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    /// Events that no broker takes.
    pub poison: usize,
    /// Transactions that change the outbox by hand.
    pub by_hand: usize,
    /// Transactions that do not wait for the disk when they commit.
    pub asynchronous: usize,
    /// Whether the poison of one topic is an event that is too large for it.
    pub oversized: bool,
    /// Transactions that emit to a topic that does not exist.
    pub lost: usize,
    /// Milliseconds between two transactions of a writer, at most.
    pub rest: usize,
}

/// What writers and faults share.
pub struct Shared {
    /// How to get to the database.
    pub dial: Dial,
    /// The names of the topics.
    pub topics: Vec<String>,
    /// What the writers do.
    pub habits: Habits,
    /// How many of the topics that do not exist have been created. A writer holds it while it emits to the next.
    pub created: RwLock<usize>,
    /// A writer holds it while it emits to the topic that is deleted now and then.
    pub volatile: RwLock<()>,
    /// Events written, for the onlooker.
    pub written: AtomicUsize,
    /// Whether nobody waits for the disk.
    hasty: AtomicBool,
    stop: AtomicBool,
}

impl Shared {
    /// Nothing has happened yet.
    pub fn new(dial: Dial, habits: Habits) -> Self {
        Self {
            dial,
            topics: topics::names(),
            habits,
            created: RwLock::new(0),
            volatile: RwLock::new(()),
            written: AtomicUsize::new(0),
            hasty: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        }
    }

    /// From here on nobody waits for the disk, or some do again.
    pub fn set_hasty(&self, is_hasty: bool) {
        self.hasty.store(is_hasty, Ordering::Relaxed);
    }

    fn is_hasty(&self) -> bool {
        self.hasty.load(Ordering::Relaxed)
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// The writers at work.
pub struct Writers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Result<Journal>>>,
}

impl Writers {
    /// Sets so many to work.
    pub fn start(count: usize, seed: u64, shared: &Arc<Shared>) -> Self {
        let threads = (1..=count).map(|number| {
            let writer = Writer::new(number, seed, shared.clone());
            spawn(move || writer.work())
        });
        Self { shared: shared.clone(), threads: threads.collect() }
    }

    /// Has them end, once all that they have begun is ended; gives their journals. The server must be up.
    pub fn stop(self) -> Result<Journal> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut all = Journal::default();
        for thread in self.threads {
            all.merge(thread.join().map_err(|_| anyhow!("a writer panicked"))??);
        }
        Ok(all)
    }
}

/// One writer.
struct Writer {
    number: i64,
    transactions: i64,
    random: Random,
    shared: Arc<Shared>,
    client: Option<Client>,
    journal: Journal,
    /// Whether the transaction does not wait for the disk when it commits.
    is_asynchronous: bool,
    /// A transaction that was prepared, and may not have been ended: its number, and whether it is to commit.
    limbo: Option<(i64, bool)>,
}

impl Writer {
    fn new(number: usize, seed: u64, shared: Arc<Shared>) -> Self {
        Self {
            number: number as i64,
            transactions: 0,
            random: Random::new(seed, number as u64),
            shared,
            client: None,
            journal: Journal::default(),
            is_asynchronous: false,
            limbo: None,
        }
    }

    fn work(mut self) -> Result<Journal> {
        while !self.shared.is_over() {
            if self.connect() {
                self.step();
                sleep(self.random.millis(0, self.shared.habits.rest));
            } else {
                sleep(RECONNECT);
            }
        }
        wait::until("a server that lets a writer end what it has prepared", LAST_DEADLINE, || {
            (self.limbo.is_none() || (self.connect() && self.limbo.is_none())).then_some(())
        })?;
        Ok(self.journal)
    }

    /// Whether there is a connection, and nothing left over from the one before.
    fn connect(&mut self) -> bool {
        if self.client.as_ref().is_none_or(Client::is_closed) {
            self.client = self.shared.dial.connect(SESSION);
        }
        self.client.is_some() && self.leave_limbo().is_ok()
    }

    /// The number of a new transaction, which has not committed.
    fn begin_notes(&mut self) -> i64 {
        self.transactions += 1;
        let number = self.number << 32 | self.transactions;
        self.journal.endings.insert(number, Ending::RolledBack);
        number
    }

    fn note(&mut self, number: i64, ending: Ending) {
        self.journal.endings.insert(number, ending);
    }
}
