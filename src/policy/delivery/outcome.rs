//! The outcome of an event that was handed to Kafka.

use super::error_class::ErrorClass;

/// The kinds of failure, as the guarantees distinguish them: only [`Failure::Refused`] and [`Failure::Unsendable`] count as
/// attempts. [`Failure::Suspect`] becomes one if it happens to an event that was sent alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// *This* event is bad: it would fail again even if everything else worked.
    Refused,
    /// No request can carry the event, so it was not sent to a broker.
    Unsendable,
    /// The broker refused a batch because of one or more of its events, perhaps this one.
    Suspect,
    /// The environment failed, or another event of the batch: this event is not at fault and is sent again.
    Outage,
    /// The producer has stopped, and whether the event was sent is unknown: a new producer is needed.
    Stopped,
}

/// What Kafka reported for one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Acknowledged by all in-sync replicas.
    Delivered {
        /// The record's partition.
        partition: i32,
        /// Its offset in the partition.
        offset: i64,
    },
    /// Not published.
    Failed {
        /// The kind of failure.
        failure: Failure,
        /// The error's class.
        class: ErrorClass,
        /// The error's text, with its librdkafka name.
        error: String,
    },
}

/// A delivery report: the outcome of the event with this id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The event's `id`.
    pub id: i64,
    /// Its outcome.
    pub outcome: Outcome,
}
