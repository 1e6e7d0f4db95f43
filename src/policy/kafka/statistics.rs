//! Owns the figures that `outbox.status` shows from librdkafka's statistics.

/// librdkafka's statistics of the producer, over all its brokers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KafkaStatistics {
    /// When the statistics were taken; 0 if they never were.
    pub taken_at: i64,
    /// The mean round-trip time to the slowest broker, in microseconds.
    pub round_trip: i64,
    /// The 99th percentile of the round-trip time to the slowest broker, in microseconds.
    pub round_trip_p99: i64,
    /// The number of events in librdkafka's queues and on their way.
    pub queued: i64,
    /// The number of requests that no broker has answered yet.
    pub requests: i64,
}
