//! The words of `outbox.status`: what a relay does, and how it stands with Kafka.

use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

/// What a relay does, as its status shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
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

    /// From its number in shared memory.
    #[must_use]
    pub fn from_u32(value: u32) -> Self {
        [
            Self::Starting,
            Self::Idle,
            Self::Publishing,
            Self::Waiting,
            Self::Failing,
            Self::Misconfigured,
            Self::Disabled,
            Self::Paused,
            Self::Incompatible,
            Self::Replica,
        ]
        .into_iter()
        .find(|state| *state as u32 == value)
        .unwrap_or(Self::Stopping)
    }
}

/// The producer's connection, as the status shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Connection {
    /// Not tried yet.
    Unknown,
    /// A broker has answered.
    Connected,
    /// No broker answers.
    Disconnected,
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

    /// From its number in shared memory.
    #[must_use]
    pub fn from_u32(value: u32) -> Self {
        match value {
            1 => Self::Connected,
            2 => Self::Disconnected,
            _ => Self::Unknown,
        }
    }
}

/// An enum of the status and the time of its last change, in microseconds since 1970.
#[derive(Default)]
pub struct Dated {
    value: AtomicU32,
    since: AtomicI64,
}

impl Dated {
    /// Takes over a value; the time is that of the change.
    pub fn set(&self, value: u32, now: i64) {
        if self.value.swap(value, Ordering::Relaxed) != value || self.since.load(Ordering::Relaxed) == 0 {
            self.since.store(now, Ordering::Relaxed);
        }
    }

    /// The value, and since when it is so, in microseconds since 1970; 0 if it was never set.
    pub fn get(&self) -> (u32, i64) {
        (self.value.load(Ordering::Relaxed), self.since.load(Ordering::Relaxed))
    }

    /// As if it had never been set.
    pub fn clear(&self) {
        self.value.store(0, Ordering::Relaxed);
        self.since.store(0, Ordering::Relaxed);
    }
}
