//! The words of `outbox.status`: what a relay does, and how it stands with Kafka.

use std::sync::atomic::{AtomicI64, Ordering};

use crate::pg::atomic_enum::{AtomicEnum, Numbered, numbered};

numbered! {
    /// What a relay does, as its status shows it.
    pub enum State {
        /// Connecting to its database.
        Starting,
        /// Nothing to do.
        Idle,
        /// Events are under way.
        Publishing,
        /// Events wait for Kafka to answer.
        Waiting,
        /// The last transaction failed; it is tried again.
        Failing,
        /// The producer cannot be created from the settings.
        Misconfigured,
        /// `event_outbox.enabled` is off.
        Disabled,
        /// `outbox.pause()` was called.
        Paused,
        /// The extension in the database and the library do not suit each other.
        Incompatible,
        /// The table is a copy, kept by a subscription.
        Replica,
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
    /// The producer's connection, as the status shows it.
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
    /// Changes the value; the time is that of the change.
    pub fn set(&self, value: T, now: i64) {
        if self.value.replace(value) || self.since.load(Ordering::Relaxed) == 0 {
            self.since.store(now, Ordering::Relaxed);
        }
    }

    /// The value, and since when it is so, in microseconds since 1970; 0 if it was never set.
    pub fn get(&self) -> (T, i64) {
        (self.value.load(), self.since.load(Ordering::Relaxed))
    }

    /// Back to the first value, as if none had ever been set.
    pub fn clear(&self) {
        self.value.store(T::ALL[0]);
        self.since.store(0, Ordering::Relaxed);
    }
}
