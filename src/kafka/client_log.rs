//! Owns what the callbacks of any client note: errors, lines for the server's log, statistics.
//!
//! Runs in: Kafka threads, inside librdkafka's poll functions.

use event_outbox_policy::kafka::statistics::KafkaStatistics;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::statistics::Statistics;

/// What the callbacks have noted since it was last emptied.
#[derive(Debug, Default)]
pub struct ClientLog {
    /// An error occurred. The thread must check whether any broker still answers, because librdkafka does not always
    /// report it if none does.
    pub has_error: bool,
    /// The text of the last error.
    pub last_error: Option<String>,
    /// There are lines for the server's log, which the main thread must write now.
    pub has_log_lines: bool,
    /// librdkafka's statistics.
    pub statistics: Option<KafkaStatistics>,
}

impl ClientLog {
    /// Notes a line of librdkafka's log. `message` has no secrets.
    pub fn log(&mut self, level: RDKafkaLogLevel, facility: &str, message: String) {
        match level {
            // The worker's state shows it, unless the producer stopped only to keep the order.
            _ if facility == "FATAL" => tracing::debug!("Kafka: {facility}: {message}"),
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::warn!("Kafka: {facility}: {message}");
                self.has_log_lines = true;
            }
            // Connection errors repeat with every attempt. The worker's state shows them once; librdkafka's own lines are
            // for debugging.
            _ => tracing::debug!("Kafka: {facility}: {message}"),
        }
        // librdkafka reports requests that no broker answers only in its log.
        if matches!(facility, "REQTMOUT" | "FAIL") {
            self.has_error = true;
            self.last_error = Some(message);
        }
    }

    /// Notes an error of the client. `reason` has no secrets.
    pub fn error(&mut self, error: &KafkaError, reason: String) {
        self.has_error = true;
        // This error says less than the one before it.
        let says_less = error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown);
        if !(says_less && self.last_error.is_some()) {
            self.last_error = Some(reason);
        }
    }

    /// Notes librdkafka's statistics, which it takes if the user has set `statistics.interval.ms`.
    pub fn statistics(&mut self, statistics: &Statistics) {
        let trips = || statistics.brokers.values().filter_map(|broker| broker.rtt.as_ref());
        self.statistics = Some(KafkaStatistics {
            // librdkafka's own time is in seconds.
            taken_at: statistics.time.saturating_mul(1_000_000),
            round_trip: trips().map(|trip| trip.avg).max().unwrap_or(0),
            round_trip_p99: trips().map(|trip| trip.p99).max().unwrap_or(0),
            queued: i64::try_from(statistics.msg_cnt).unwrap_or(i64::MAX),
            requests: statistics.brokers.values().map(|broker| broker.outbuf_cnt + broker.waitresp_cnt).sum(),
        });
    }
}
