//! Owns the context of a consumer: what its callbacks note.
//!
//! Runs in: the Kafka thread, inside librdkafka's poll functions.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use event_outbox_policy::inbox::topics;
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
    topic_ids: Arc<Mutex<HashMap<String, String>>>,
    redactor: Arc<Redactor>,
}

impl Context {
    /// A context that removes secrets from librdkafka's texts with this redactor.
    #[must_use]
    pub fn new(redactor: Redactor) -> Self {
        Self { redactor: Arc::new(redactor), ..Self::default() }
    }

    /// The log, to be read and emptied.
    pub fn client_log(&self) -> MutexGuard<'_, ClientLog> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether librdkafka reads a topic by another id than this one. It tells of an id in its log before it reads by it.
    #[must_use]
    pub fn has_other_id(&self, topic: &str, id: &str) -> bool {
        let ids = self.topic_ids.lock().unwrap_or_else(PoisonError::into_inner);
        ids.get(topic).is_some_and(|known| known != id)
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        if matches!(level, RDKafkaLogLevel::Debug) {
            // These lines are only for us: see `config::telling_topic_ids`.
            if let Some((topic, id)) = topics::changed_id(message) {
                let mut ids = self.topic_ids.lock().unwrap_or_else(PoisonError::into_inner);
                ids.insert(topic.to_owned(), id.to_owned());
            }
            return;
        }
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
