//! Owns the metrics of ingest workers in shared memory, one set per slot.
//!
//! Runs in: the worker's main thread writes them, any backend reads them.

use std::sync::atomic::{AtomicI64, Ordering};

use pgrx::pg_shmem_init;
use pgrx::prelude::*;

use crate::pg::atomic_enum::numbered;
use crate::pg::shmem::SharedArray;
use crate::settings::workers;
use crate::worker::metrics::{Connection, Dated, Rate};
use crate::worker::slot::Slot;

static METRICS: SharedArray<Metrics> = SharedArray::new(c"event_outbox_inboxes", workers::max_workers);

/// Requests the shared memory.
pub fn init() {
    pg_shmem_init!(METRICS = ());
}

/// The metrics of the worker in this slot.
pub fn of(slot: &Slot) -> &'static Metrics {
    &METRICS.elements()[slot.index()]
}

numbered! {
    /// What an ingest worker does, as `inbox.consumers` shows it.
    pub enum State {
        /// Connecting to its database.
        Starting,
        /// All that Kafka has is stored.
        Idle,
        /// Records arrive.
        Reading,
        /// No broker answers, or a partition has no leader.
        Waiting,
        /// The last transaction failed, and will be retried.
        Failing,
        /// A consumer cannot be created from the settings.
        Misconfigured,
        /// `event_outbox.enabled` is off.
        Disabled,
        /// Ending.
        Stopping,
    }
}

impl State {
    /// The word that the status shows.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Idle => "idle",
            Self::Reading => "reading",
            Self::Waiting => "waiting",
            Self::Failing => "failing",
            Self::Misconfigured => "misconfigured",
            Self::Disabled => "disabled",
            Self::Stopping => "stopping",
        }
    }
}

/// The metrics of one worker. Times are in microseconds since 1970; 0 means never.
#[derive(Default)]
pub struct Metrics {
    state: Dated<State>,
    connection: Dated<Connection>,
    /// The number of events that were stored.
    pub stored: AtomicI64,
    /// The number of batches in which they were stored.
    pub batches: AtomicI64,
    /// The number of failed attempts that were recorded.
    pub failures: AtomicI64,
    /// When events were last stored.
    pub last_stored_at: AtomicI64,
    rate: Rate,
}

impl Metrics {
    /// The state shown, and since when.
    pub fn state(&self) -> (State, i64) {
        self.state.get()
    }

    /// Shows a state.
    pub fn show(&self, state: State) {
        self.state.set(state, crate::pg::now());
    }

    /// The connection shown, and since when.
    pub fn connection(&self) -> (Connection, i64) {
        self.connection.get()
    }

    /// Shows a connection.
    pub fn show_connection(&self, connection: Connection) {
        self.connection.set(connection, crate::pg::now());
    }

    /// Counts a batch of events that was stored now.
    pub fn count_stored(&self, count: usize, now: i64) {
        self.stored.fetch_add(i64::try_from(count).unwrap_or(0), Ordering::Relaxed);
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.last_stored_at.store(now, Ordering::Relaxed);
        self.rate.add(count, now);
    }

    /// The events stored per second, over about the last minute.
    #[must_use]
    pub fn rate(&self, now: i64) -> f64 {
        self.rate.at(now)
    }

    /// Clears what ends with the worker.
    pub fn end(&self) {
        self.connection.clear();
    }

    /// Resets everything, as at the server's start.
    pub fn clear(&self) {
        self.state.clear();
        self.connection.clear();
        for counter in [&self.stored, &self.batches, &self.failures, &self.last_stored_at] {
            counter.store(0, Ordering::Relaxed);
        }
        self.rate.clear();
    }
}
