//! Owns the messages between the main thread and the Kafka thread.
//!
//! Runs in: both threads.

use event_outbox_policy::delivery::marker::EventPart;
use event_outbox_policy::delivery::outcome::Report;
use event_outbox_policy::delivery::topic_ramp::Route;
use event_outbox_policy::event::event_batch::{BatchSize, EventBatch};
use event_outbox_policy::kafka::statistics::KafkaStatistics;

/// A batch of events, by route, each part in the order of their ids.
#[derive(Debug, Default)]
pub struct ProduceBatch([EventBatch; Route::ALL.len()]);

impl ProduceBatch {
    /// A batch with this room for the events of the gapless producer, which sends nearly all events.
    #[must_use]
    pub fn with_room(size: BatchSize) -> Self {
        let mut batch = Self::default();
        *batch.part_mut(Route::Gapless) = EventBatch::with_room(size);
        batch
    }

    /// The events of a route.
    #[must_use]
    pub fn part(&self, route: Route) -> &EventBatch {
        &self.0[route as usize]
    }

    /// The events of a route, to be added to.
    pub fn part_mut(&mut self, route: Route) -> &mut EventBatch {
        &mut self.0[route as usize]
    }

    /// Takes the events of a route out.
    #[must_use]
    pub fn split_off(&mut self, route: Route) -> Self {
        let mut batch = Self::default();
        *batch.part_mut(route) = std::mem::take(self.part_mut(route));
        batch
    }
}

/// A message to the Kafka thread.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "nearly all are of the large variant, and there are a few at a time"
)]
pub enum ProducerCommand {
    /// Publish these events.
    Publish(ProduceBatch),
    /// The deletion of these events is durable. This and the next are for delivery exactly once.
    Deleted(Vec<(i64, EventPart)>),
    /// All that came back after [`ProducerEvent::RolledBack`] is settled: batches are in their order again.
    Resume,
}

/// A message from the Kafka thread.
#[derive(Debug)]
pub enum ProducerEvent {
    /// Delivery reports.
    Reports(Vec<Report>),
    /// A broker answers.
    Connected,
    /// No broker answers. Holds the reason.
    Disconnected(String),
    /// librdkafka's statistics, if the user has enabled them.
    Statistics(KafkaStatistics),
    /// The producer has stopped at a gap, so that no event overtakes those that the broker refused.
    Gap,
    /// The producer is idle and holds topics that it should not keep. It must be replaced to forget them.
    Stale,
    /// Delivery exactly once: batches are taken. Holds the events that are in Kafka, and may be in the table.
    Started(Vec<(i64, EventPart)>),
    /// Delivery exactly once: nothing is published for now. Holds the reason, and what to do.
    HoldsBack(String),
    /// Delivery exactly once: a transaction was rolled back. Its events come back, and so do those of all later batches until
    /// [`ProducerCommand::Resume`].
    RolledBack,
    /// The producer could not be created, or cannot be used any more. Holds the reason.
    Broken(String),
}
