//! What the main thread and the Kafka thread say to each other.

use event_outbox_policy::delivery::outcome::Report;
use event_outbox_policy::event::event_batch::EventBatch;
use event_outbox_policy::kafka::statistics::KafkaStatistics;

/// Events handed over together, in the order of their ids.
#[derive(Debug, Default)]
pub struct ProduceBatch {
    /// For the producer of nearly all events.
    pub gapless: EventBatch,
    /// For the one of what may be refused.
    pub quarantine: EventBatch,
}

/// What the Kafka thread tells.
#[derive(Debug)]
pub enum ProducerEvent {
    /// What became of events.
    Reports(Vec<Report>),
    /// A broker answers.
    Connected,
    /// None does, and why.
    Disconnected(String),
    /// What librdkafka tells of itself, where it is asked to.
    Statistics(KafkaStatistics),
    /// The producer has stopped, so that nothing comes before what the broker refused.
    Gap,
    /// The producer has nothing to do, and knows topics that it had better forget.
    Stale,
    /// The producer cannot be used, or no longer, and why.
    Broken(String),
}
