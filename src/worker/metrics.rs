//! Owns the building blocks of the metrics of all kinds of workers.
//!
//! Runs in: a worker's main thread writes them, any backend reads them.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use event_outbox_policy::kafka::statistics::KafkaStatistics;

use crate::pg::atomic_enum::{AtomicEnum, Numbered, numbered};

/// The time over which a rate is averaged, in seconds.
const RATE_SECONDS: f64 = 60.0;

numbered! {
    /// A worker's connection to Kafka, as its status shows it.
    pub enum Connection {
        /// Not tried yet.
        Unknown,
        /// A broker has answered.
        Connected,
        /// No broker answers.
        Disconnected,
    }
}

impl Connection {
    /// The word that the status shows.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Connected => "connected",
            Self::Disconnected => "disconnected",
        }
    }
}

/// A value of the status and the time of its last change, in microseconds since 1970.
pub struct Dated<T> {
    value: AtomicEnum<T>,
    since: AtomicI64,
}

impl<T: Numbered> Default for Dated<T> {
    fn default() -> Self {
        Self { value: AtomicEnum::default(), since: AtomicI64::new(0) }
    }
}

impl<T: Numbered> Dated<T> {
    /// Sets the value. The time changes only if the value does.
    pub fn set(&self, value: T, now: i64) {
        if self.value.replace(value) || self.since.load(Ordering::Relaxed) == 0 {
            self.since.store(now, Ordering::Relaxed);
        }
    }

    /// The value and the time of its last change, in microseconds since 1970; 0 if it was never set.
    pub fn get(&self) -> (T, i64) {
        (self.value.load(), self.since.load(Ordering::Relaxed))
    }

    /// Resets it to the first value, as if it had never been set.
    pub fn clear(&self) {
        self.value.store(T::ALL[0]);
        self.since.store(0, Ordering::Relaxed);
    }
}

/// A rate that decays with time. A reader between the two stores of `add` sees a wrong value for that moment.
#[derive(Default)]
pub struct Rate {
    /// Events per second, as the bits of an `f64`.
    value: AtomicU64,
    taken: AtomicI64,
}

impl Rate {
    /// Counts events now.
    pub fn add(&self, count: usize, now: i64) {
        let value = self.at(now) + count as f64 / RATE_SECONDS;
        self.value.store(value.to_bits(), Ordering::Relaxed);
        self.taken.store(now, Ordering::Relaxed);
    }

    /// The events per second, over about the last minute.
    pub fn at(&self, now: i64) -> f64 {
        let age = (now - self.taken.load(Ordering::Relaxed)).max(0) as f64 / 1e6;
        f64::from_bits(self.value.load(Ordering::Relaxed)) * (-age / RATE_SECONDS).exp()
    }

    /// Resets it.
    pub fn clear(&self) {
        self.value.store(0, Ordering::Relaxed);
        self.taken.store(0, Ordering::Relaxed);
    }
}

/// [`KafkaStatistics`] in shared memory.
#[derive(Default)]
pub struct KafkaMetrics {
    taken_at: AtomicI64,
    round_trip: AtomicI64,
    round_trip_p99: AtomicI64,
    queued: AtomicI64,
    requests: AtomicI64,
}

impl KafkaMetrics {
    /// Stores new statistics.
    pub fn set(&self, new: &KafkaStatistics) {
        self.round_trip.store(new.round_trip, Ordering::Relaxed);
        self.round_trip_p99.store(new.round_trip_p99, Ordering::Relaxed);
        self.queued.store(new.queued, Ordering::Relaxed);
        self.requests.store(new.requests, Ordering::Relaxed);
        self.taken_at.store(new.taken_at, Ordering::Relaxed);
    }

    /// The last statistics, if there are any.
    #[must_use]
    pub fn get(&self) -> Option<KafkaStatistics> {
        let taken_at = self.taken_at.load(Ordering::Relaxed);
        (taken_at != 0).then(|| KafkaStatistics {
            taken_at,
            round_trip: self.round_trip.load(Ordering::Relaxed),
            round_trip_p99: self.round_trip_p99.load(Ordering::Relaxed),
            queued: self.queued.load(Ordering::Relaxed),
            requests: self.requests.load(Ordering::Relaxed),
        })
    }
}
