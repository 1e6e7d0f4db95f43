//! Owns the relays' metrics in shared memory, one set per slot: the state, the connection, and numbers.
//!
//! Runs in: the relay's main thread writes them, any backend reads them.

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use event_outbox_policy::delivery::error_class::CountedError;
use event_outbox_policy::delivery::mode::DeliveryMode;
use event_outbox_policy::kafka::statistics::KafkaStatistics;
use event_outbox_policy::reading::schedule::UNKNOWN;
use pgrx::pg_shmem_init;
use pgrx::prelude::*;

use super::state::State;
use crate::pg::atomic_enum::{AtomicEnum, Numbered};
use crate::pg::shmem::SharedArray;
use crate::settings::workers;
use crate::worker::metrics::{Connection, Dated, KafkaMetrics, Rate};
use crate::worker::slot::Slot;

static METRICS: SharedArray<Metrics> = SharedArray::new(c"event_outbox_relays", workers::max_workers);

/// Requests the shared memory.
pub fn init() {
    pg_shmem_init!(METRICS = ());
}

/// The metrics of the relay in this slot.
pub fn of(slot: &Slot) -> &'static Metrics {
    &METRICS.elements()[slot.index()]
}

impl Numbered for DeliveryMode {
    const ALL: &'static [Self] = Self::ALL;

    fn number(self) -> u32 {
        self as u32
    }
}

/// The metrics of one relay. Times are in microseconds since 1970; 0 means never.
#[derive(Default)]
pub struct Metrics {
    state: Dated<State>,
    connection: Dated<Connection>,
    /// How the relay delivers.
    pub delivery: AtomicEnum<DeliveryMode>,
    /// The number of events that were published and settled.
    pub published: AtomicI64,
    /// The number of refusals.
    pub refused: AtomicI64,
    /// The number of events that were deleted and then not acknowledged.
    pub given_up: AtomicI64,
    /// The number of events in flight: handed over but not yet settled.
    pub in_flight: AtomicUsize,
    /// How many events may be in flight.
    pub max_in_flight: AtomicUsize,
    /// The number of refused events that wait for their next attempt.
    pub waiting_retries: AtomicUsize,
    /// The number of keys with a refused event. Other events of the key wait behind it.
    pub blocked_keys: AtomicUsize,
    /// When the oldest event in flight was emitted.
    pub oldest_event_at: AtomicI64,
    /// When a published event was last settled.
    pub last_publish_at: AtomicI64,
    /// When the next scheduled event is due, as the relay knows. [`UNKNOWN`] if it does not know.
    pub next_due: AtomicI64,
    /// How many events wait, about. Kept only while `event_outbox.max_backlog` is set.
    pub backlog: AtomicI64,
    /// How often the relay has read the table.
    pub sweeps: AtomicI64,
    /// How often the relay has woken from its sleep.
    pub wakeups: AtomicI64,
    /// The statistics of librdkafka, if they are enabled.
    pub kafka: KafkaMetrics,
    rate: Rate,
    errors: [AtomicI64; CountedError::COUNT],
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

    /// Counts events that were published and are settled now.
    pub fn count_published(&self, count: usize, now: i64) {
        self.published.fetch_add(i64::try_from(count).unwrap_or(0), Ordering::Relaxed);
        self.last_publish_at.store(now, Ordering::Relaxed);
        self.rate.add(count, now);
    }

    /// The events published per second, over about the last minute.
    #[must_use]
    pub fn publish_rate(&self, now: i64) -> f64 {
        self.rate.at(now)
    }

    /// Counts an error.
    pub fn count_error(&self, kind: CountedError) {
        self.errors[kind.index()].fetch_add(1, Ordering::Relaxed);
    }

    /// The kinds of errors that have occurred, and how often.
    pub fn error_counts(&self) -> impl Iterator<Item = (CountedError, i64)> + '_ {
        CountedError::all()
            .map(|kind| (kind, self.errors[kind.index()].load(Ordering::Relaxed)))
            .filter(|(_, count)| *count > 0)
    }

    /// Clears what ends with the relay: the events in flight, and its memory of refused events.
    pub fn end(&self) {
        for count in [&self.in_flight, &self.waiting_retries, &self.blocked_keys] {
            count.store(0, Ordering::Relaxed);
        }
        self.oldest_event_at.store(0, Ordering::Relaxed);
        self.next_due.store(UNKNOWN, Ordering::SeqCst);
        self.kafka.set(&KafkaStatistics::default());
    }

    /// Resets everything, as at the server's start.
    pub fn clear(&self) {
        self.end();
        self.state.clear();
        self.connection.clear();
        self.max_in_flight.store(0, Ordering::Relaxed);
        self.backlog.store(0, Ordering::Relaxed);
        let counters = [
            &self.published,
            &self.refused,
            &self.given_up,
            &self.last_publish_at,
            &self.sweeps,
            &self.wakeups,
        ];
        for counter in counters {
            counter.store(0, Ordering::Relaxed);
        }
        self.errors.iter().for_each(|count| count.store(0, Ordering::Relaxed));
        self.rate.clear();
    }
}
