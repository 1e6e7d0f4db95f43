//! Owns the context of a consumer: what its callbacks note.
//!
//! Runs in: the Kafka thread, inside librdkafka's poll functions.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use event_outbox_policy::inbox::topics::{self, ChangedId};
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
    topic_ids: Arc<Mutex<HashMap<String, TopicId>>>,
    redactor: Arc<Redactor>,
}

/// The id by which librdkafka reads a topic.
#[derive(Debug)]
struct TopicId {
    id: String,
    /// It has read the topic by another id before.
    is_recreated: bool,
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

    /// Whether librdkafka reads a topic by another id than this one, or has ever read it by another. It tells of an id in its
    /// log before it reads by it.
    ///
    /// Of a topic that was created again it remembers the leader epochs of the old one, and stops reading in silence where
    /// those of the new one are lower. So this client is of no use for the topic any more.
    #[must_use]
    pub fn is_outdated(&self, topic: &str, id: &str) -> bool {
        let ids = self.topic_ids.lock().unwrap_or_else(PoisonError::into_inner);
        ids.get(topic).is_some_and(|known| known.is_recreated || known.id != id)
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        if matches!(level, RDKafkaLogLevel::Debug) {
            // These lines are only for us: see `config::telling_topic_ids`.
            if let Some(ChangedId { topic, id, is_recreated }) = topics::changed_id(message) {
                let mut ids = self.topic_ids.lock().unwrap_or_else(PoisonError::into_inner);
                // A topic that is missing for a while loses its id, and with it the sign that it was created again.
                let is_recreated = is_recreated || ids.get(topic).is_some_and(|known| known.id != id);
                ids.insert(topic.to_owned(), TopicId { id: id.to_owned(), is_recreated });
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
