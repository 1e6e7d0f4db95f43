//! librdkafka's callbacks. They run on the Kafka thread, inside its polls, and only take notes.

use std::sync::{Mutex, MutexGuard, PoisonError};

use event_outbox_domain::outcome::{Failure, Outcome, Report};
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::ProducerContext;
use rdkafka::statistics::Statistics;

use super::failure;

/// What the callbacks have noted since the last look.
#[derive(Debug, Default)]
pub struct Notes {
    /// Delivery reports.
    pub reports: Vec<Report>,
    /// The last word on the connection: why no broker answers.
    pub all_brokers_down: Option<String>,
    /// Why a single broker could not be reached, which tells more than "all are down".
    pub cause: Option<String>,
    /// Why the producer cannot go on.
    pub fatal: Option<String>,
}

/// The producer's context. The lock is never contended: callbacks run where the notes are taken out.
#[derive(Debug, Default)]
pub struct Context(Mutex<Notes>);

impl Context {
    /// The notes, to read and to empty.
    pub fn notes(&self) -> MutexGuard<'_, Notes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::warn!("Kafka: {facility}: {message}");
            }
            // Connection trouble repeats with every try. It is told once, as the state of the relay;
            // librdkafka's own lines are for those who look closer.
            _ => tracing::debug!("Kafka: {facility}: {message}"),
        }
    }

    fn stats(&self, _statistics: Statistics) {}

    fn error(&self, error: KafkaError, reason: &str) {
        let mut notes = self.notes();
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::Fatal) => notes.fatal = Some(reason.to_owned()),
            Some(RDKafkaErrorCode::AllBrokersDown) => {
                notes.all_brokers_down = Some(notes.cause.clone().unwrap_or_else(|| reason.to_owned()));
            }
            _ => notes.cause = Some(reason.to_owned()),
        }
    }
}

impl ProducerContext for Context {
    /// The event's id.
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, id: usize) {
        let outcome = match result {
            Ok(message) => Outcome::Delivered { partition: message.partition(), offset: message.offset() },
            Err((error, _)) => failure::outcome(error),
        };
        let mut notes = self.notes();
        if let Outcome::Failed { failure: Failure::Fatal, error } = &outcome {
            notes.fatal = Some(error.clone());
        }
        notes.reports.push(Report { id: id.cast_signed() as i64, outcome });
    }
}
