//! Figures that go from the Kafka side to whoever shows them.

/// What librdkafka's statistics tell of the producer, of all its brokers together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KafkaStatistics {
    /// When they were taken; 0 if they were not.
    pub taken_at: i64,
    /// Mean time from a request to its answer, of the slowest broker, in microseconds.
    pub round_trip: i64,
    /// The same time of all but one request in a hundred.
    pub round_trip_p99: i64,
    /// Events in librdkafka's queues and on their way.
    pub queued: i64,
    /// Requests that no broker has answered yet.
    pub requests: i64,
}
