//! Owns the context of a consumer: what its callbacks note.
//!
//! Runs in: the Kafka thread, inside librdkafka's poll functions.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use event_outbox_policy::kafka::redactor::Redactor;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;
use rdkafka::statistics::Statistics;

use crate::kafka::client_log::ClientLog;

/// The context. The lock is never contended: the thread on which the callbacks run also empties the log.
#[derive(Debug, Default, Clone)]
pub struct Context {
    log: Arc<Mutex<ClientLog>>,
    redactor: Arc<Redactor>,
}

impl Context {
    /// A context that removes secrets from librdkafka's texts with this redactor.
    #[must_use]
    pub fn new(redactor: Redactor) -> Self {
        Self { log: Arc::default(), redactor: Arc::new(redactor) }
    }

    /// The log, to be read and emptied.
    pub fn client_log(&self) -> MutexGuard<'_, ClientLog> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        let message = self.redactor.redact(message);
        self.client_log().log(level, facility, message);
    }

    fn stats(&self, statistics: Statistics) {
        self.client_log().statistics(&statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let reason = self.redactor.redact(reason);
        self.client_log().error(&error, reason);
    }
}

impl ConsumerContext for Context {}
