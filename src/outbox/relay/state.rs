//! Owns the states that `outbox.status` shows: that of the relay, and that of its connection to Kafka.
//!
//! Runs in: the relay's main thread writes them, any backend reads them.

use std::sync::atomic::{AtomicI64, Ordering};

use crate::pg::atomic_enum::{AtomicEnum, Numbered, numbered};

numbered! {
    /// What a relay does, as `outbox.status` shows it. Its main thread sets this.
    pub enum State {
        /// Connecting to its database.
        Starting,
        /// Nothing to do.
        Idle,
        /// Events are in flight.
        Publishing,
        /// Events wait for Kafka, or for a synchronous standby.
        Waiting,
        /// The last transaction failed, and will be retried.
        Failing,
        /// The producer cannot be created from the settings.
        Misconfigured,
        /// `event_outbox.enabled` is off.
        Disabled,
        /// `outbox.pause()` was called.
        Paused,
        /// The extension's version in the database does not fit the library.
        Incompatible,
        /// The table is a copy that a subscription fills.
        Replica,
        /// Settling the events in flight before it ends.
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
            Self::Publishing => "publishing",
            Self::Waiting => "waiting",
            Self::Failing => "failing",
            Self::Misconfigured => "misconfigured",
            Self::Disabled => "disabled",
            Self::Paused => "paused",
            Self::Incompatible => "incompatible",
            Self::Replica => "replica",
            Self::Stopping => "stopping",
        }
    }
}

numbered! {
    /// The producer's connection, as `outbox.status` shows it.
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
