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

/// How long a writer may take at the end to finish its prepared transaction.
const LAST_DEADLINE: Duration = Duration::from_secs(60);

/// A writer that waits for a lock gives up before it blocks everybody.
const SESSION: &str = "SET lock_timeout = '1s'; SET statement_timeout = '30s'; SET deadlock_timeout = '50ms'; \
                       SET log_min_messages = fatal";

/// What the writers do; shares are of a thousand.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    /// Events that each broker refuses.
    pub poison: usize,
    /// Transactions that change the outbox by hand.
    pub by_hand: usize,
    /// Transactions that commit asynchronously.
    pub asynchronous: usize,
    /// Whether the poison of one topic is events that are too large for it.
    pub oversized: bool,
    /// Transactions that emit to a topic that does not exist.
    pub lost: usize,
    /// Milliseconds between two transactions of a writer, at most.
    pub rest: usize,
}

/// What writers and faults share.
pub struct Shared {
    /// The address of the database.
    pub dial: Dial,
    /// The names of the topics.
    pub topics: Vec<String>,
    /// What the writers do.
    pub habits: Habits,
    /// How many of the missing topics have been created. A writer holds it while it emits to the next one.
    pub created: RwLock<usize>,
    /// A writer holds it while it emits to the topic that faults delete.
    pub volatile: RwLock<()>,
    /// Events written so far.
    pub written: AtomicUsize,
    /// Whether all commits are asynchronous.
    hasty: AtomicBool,
    stop: AtomicBool,
}

impl Shared {
    /// The state at the beginning.
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

    /// Makes all commits asynchronous, or only the usual share again.
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
    /// Starts `count` writers.
    pub fn start(count: usize, seed: u64, shared: &Arc<Shared>) -> Self {
        let threads = (1..=count).map(|number| {
            let writer = Writer::new(number, seed, shared.clone());
            spawn(move || writer.work())
        });
        Self { shared: shared.clone(), threads: threads.collect() }
    }

    /// Stops the writers once they have finished all transactions; returns their journals. The server must be up.
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
    /// Whether the transaction commits asynchronously.
    is_asynchronous: bool,
    /// A prepared transaction that may not have ended: its number, and whether it shall commit.
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
        wait::until("a writer to finish its prepared transaction", LAST_DEADLINE, || {
            (self.limbo.is_none() || (self.connect() && self.limbo.is_none())).then_some(())
        })?;
        Ok(self.journal)
    }

    /// Connects if need be, and ends a prepared transaction; returns whether both succeeded.
    fn connect(&mut self) -> bool {
        if self.client.as_ref().is_none_or(Client::is_closed) {
            self.client = self.shared.dial.connect(SESSION);
        }
        self.client.is_some() && self.leave_limbo().is_ok()
    }

    /// Opens the journal of a new transaction; returns its number.
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
