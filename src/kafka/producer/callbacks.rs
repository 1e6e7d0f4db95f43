//! Owns librdkafka's callbacks, and the log in which they note what happened.
//!
//! Runs in: the Kafka thread, inside librdkafka's poll functions.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use event_outbox_policy::delivery::error_class::ErrorClass;
use event_outbox_policy::delivery::outcome::{Failure, Outcome, Report};
use event_outbox_policy::kafka::redactor::Redactor;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::ProducerContext;
use rdkafka::statistics::Statistics;

use crate::kafka::client_log::ClientLog;
use crate::kafka::error_class;

/// What the callbacks have noted since it was last emptied.
#[derive(Debug, Default)]
pub struct CallbackLog {
    /// Delivery reports.
    pub reports: Vec<Report>,
    /// How many events could not be published, and whether the transaction has failed, since this was last set to zero.
    pub failures: usize,
    /// What the callbacks of any client note.
    pub client: ClientLog,
    /// Topics whose metadata may be outdated.
    pub stale_topics: HashSet<String>,
    /// Topics that the producer has found missing.
    pub vanished_topics: HashSet<String>,
    /// Why a producer accepts no more events, if one has stopped.
    pub stopped: Option<String>,
}

/// The context of the thread's producers. The lock is never contended: the thread on which the callbacks run also
/// empties the log.
#[derive(Debug, Default, Clone)]
pub struct Context {
    log: Arc<Mutex<CallbackLog>>,
    redactor: Arc<Redactor>,
}

impl Context {
    /// A context that removes secrets from librdkafka's texts with this redactor.
    #[must_use]
    pub fn new(redactor: Redactor) -> Self {
        Self { log: Arc::default(), redactor: Arc::new(redactor) }
    }

    /// librdkafka's text without secrets.
    #[must_use]
    pub fn redact(&self, text: &str) -> String {
        self.redactor.redact(text)
    }

    /// The log, to be read and emptied.
    pub fn callback_log(&self) -> MutexGuard<'_, CallbackLog> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that an event for `topic` could not be published.
    pub fn failed(&self, id: i64, topic: &str, error: &KafkaError) {
        let outcome = error_class::outcome(error);
        let mut log = self.callback_log();
        if let Outcome::Failed { failure: Failure::Stopped, error, .. } = &outcome {
            log.stopped.get_or_insert_with(|| error.clone());
        }
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::UnknownPartition) {
            log.stale_topics.insert(topic.to_owned());
        }
        if matches!(
            error.rdkafka_error_code(),
            Some(RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownTopicOrPartition)
        ) {
            log.vanished_topics.insert(topic.to_owned());
        }
        log.failures += 1;
        log.reports.push(Report { id, outcome });
    }

    /// Notes that an event could not be handed to a producer for now.
    pub fn postponed(&self, id: i64) {
        let outcome = Outcome::Failed {
            failure: Failure::Outage,
            class: ErrorClass::Other,
            error: "could not create another producer".into(),
        };
        self.callback_log().reports.push(Report { id, outcome });
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        let message = self.redact(message);
        let mut log = self.callback_log();
        // A transaction that can only be aborted. librdkafka may send no more of its events, and report none of them.
        if facility == "TXNERR" {
            log.failures += 1;
        }
        log.client.log(level, facility, message);
    }

    fn stats(&self, statistics: Statistics) {
        self.callback_log().client.statistics(&statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let reason = self.redact(reason);
        let mut log = self.callback_log();
        match error.rdkafka_error_code() {
            // A fatal error usually arrives under the name of its cause, and `has_error` makes the thread ask the
            // producers about it. A gap is not an error of the connection, so it leaves `has_error` unset.
            Some(RDKafkaErrorCode::Fatal | RDKafkaErrorCode::GaplessGuarantee) => {
                log.stopped = Some(reason);
            }
            _ => log.client.error(&error, reason),
        }
    }
}

impl ProducerContext for Context {
    /// The event's id.
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, id: usize) {
        let id = id.cast_signed() as i64;
        match result {
            Ok(message) => {
                let outcome = Outcome::Delivered { partition: message.partition(), offset: message.offset() };
                self.callback_log().reports.push(Report { id, outcome });
            }
            Err((error, message)) => self.failed(id, message.topic(), error),
        }
    }
}
