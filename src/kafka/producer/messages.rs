//! Owns the messages between the main thread and the Kafka thread.
//!
//! Runs in: both threads.

use event_outbox_policy::delivery::outcome::Report;
use event_outbox_policy::event::event_batch::EventBatch;
use event_outbox_policy::kafka::statistics::KafkaStatistics;

/// A batch of events, in the order of their ids.
#[derive(Debug, Default)]
pub struct ProduceBatch {
    /// Events for the gapless producer, which sends nearly all events.
    pub gapless: EventBatch,
    /// Events for the quarantine producer, which sends events that may be refused.
    pub quarantine: EventBatch,
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
    /// The producer could not be created, or cannot be used any more. Holds the reason.
    Broken(String),
}
