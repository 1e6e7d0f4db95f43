//! Owns the states of a relay that `outbox.status` shows.
//!
//! Runs in: the relay's main thread writes them, any backend reads them.

use crate::pg::atomic_enum::numbered;

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
