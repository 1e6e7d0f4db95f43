//! What became of an event that was handed to Kafka.

use super::error_class::ErrorClass;

/// The kinds of trouble, as the promises sort them: only [`Failure::Refused`] and [`Failure::Unsendable`] are attempts,
/// and [`Failure::Suspect`] becomes one if it happens to an event that was sent alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// *This* event is bad: it would fail again however well the world is.
    Refused,
    /// No request can carry it, so that no broker was asked.
    Unsendable,
    /// The broker refused a batch, for one or some of its events: perhaps this one.
    Suspect,
    /// The world is bad, or a batch-mate was: the event is blameless and is sent again.
    Outage,
    /// The producer has stopped, and the event with it, sent or not: a new one is needed.
    Stopped,
}

/// What Kafka said of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Acknowledged by all in-sync replicas.
    Delivered {
        /// Where the record is.
        partition: i32,
        /// Its offset in the partition.
        offset: i64,
    },
    /// Not published.
    Failed {
        /// Whose fault it is.
        failure: Failure,
        /// Its class.
        class: ErrorClass,
        /// The error in words, with its librdkafka name.
        error: String,
    },
}

/// A delivery report: what became of the event with this id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The event's `id`.
    pub id: i64,
    /// What became of it.
    pub outcome: Outcome,
}
