//! How the Kafka thread gives events to the producers: at once if their topics are known, else when Kafka has said that they
//! exist.
//!
//! Runs in: the Kafka thread of the relay's process.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use event_outbox_policy::delivery::topic_ramp::Route;
use event_outbox_policy::event::event_batch::EventBatch;
use event_outbox_policy::kafka::known_topics::Knowledge;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::super::client::Client;
use super::super::held_batches::Fates;
use super::{Closed, STALE_CHECK_AFTER, Session};
use crate::failpoints;
use crate::kafka::probe::PATIENCE;
use crate::kafka::{config, topics};

/// How many messages to produce before serving callbacks again.
const SERVE_EVERY: usize = 256;

impl Session<'_> {
    /// Produces the batches that were taken, but for the events whose topics Kafka must be asked about: these are held. The
    /// window limits the number of events that can wait here.
    pub(super) fn produce_batches(&mut self) -> Result<(), Closed> {
        while let Some(batch) = self.batches.pop_front() {
            self.stale_check_at = Some(Instant::now() + STALE_CHECK_AFTER);
            let fates = Route::ALL.map(|route| self.fates(batch.part(route).topics()));
            for route in Route::ALL {
                self.produce(batch.part(route), &fates[route as usize], route)?;
            }
            self.held.hold(batch, &fates);
        }
        Ok(())
    }

    /// Takes Kafka's answer about topics, and asks the next question, if a broker is known to answer.
    pub(super) fn ask_about_topics(&mut self) -> Result<(), Closed> {
        if let Some(decided) = self.answer_about_topics() {
            let mut held = std::mem::take(&mut self.held);
            held.release(&decided, |events, fates, route| self.produce(events, fates, route))?;
            self.held = held;
        }
        if self.probe.is_none() && self.topic_question.is_none() {
            let topics = self.known_topics.ask();
            if !topics.is_empty() {
                let wakeup = &self.thread.wakeup;
                self.topic_question = Some(self.gapless.ask_about_topics(&topics, PATIENCE, wakeup));
            }
        }
        Ok(())
    }

    /// What is known of the topics of the question that was open, if it is answered, or will not be.
    fn answer_about_topics(&mut self) -> Option<HashMap<Arc<str>, Knowledge>> {
        let answer = self.topic_question.as_ref()?.answer_within(Duration::ZERO)?;
        self.topic_question = None;
        if answer.is_silence() {
            // Kafka is asked again when a broker is known to answer.
            self.probe.get_or_insert_default();
            return Some(self.known_topics.not_answered());
        }
        // A broker that cannot answer such a question leaves it to the producer to find out.
        let (_, others) = topics::read(&answer).unwrap_or_default();
        let is_missing =
            |(_, code): &&(String, RDKafkaErrorCode)| *code == RDKafkaErrorCode::UnknownTopicOrPartition;
        let missing: HashSet<&str> = others.iter().filter(is_missing).map(|(name, _)| &**name).collect();
        Some(self.known_topics.answered(&missing, Instant::now()))
    }

    fn fates(&mut self, topics: &[Arc<str>]) -> Fates {
        // If Kafka may create topics, the producer's own metadata request makes it do so.
        if config::creates_topics(&self.thread.config) {
            topics.iter().for_each(|topic| self.known_topics.mark_opened(topic));
        }
        let now = Instant::now();
        topics.iter().map(|topic| self.known_topics.look_up(topic, now)).collect()
    }

    /// Produces the events of existing topics, and refuses those of missing ones.
    fn produce(&mut self, batch: &EventBatch, fates: &Fates, route: Route) -> Result<(), Closed> {
        let (context, envelope) = (self.context.clone(), &self.thread.envelope);
        let mut events = batch.events().filter(|(place, _)| fates[*place] != Knowledge::Unknown).peekable();
        while events.peek().is_some() {
            let some = events.by_ref().take(SERVE_EVERY).filter(|(place, event)| {
                let is_missing = fates[*place] == Knowledge::Missing;
                if is_missing {
                    let error = KafkaError::MessageProduction(RDKafkaErrorCode::UnknownTopic);
                    context.failed(event.id, event.topic, &error);
                }
                !is_missing
            });
            match self.producer(route) {
                Some(producer) => producer.produce(some, batch.topics(), envelope),
                None => some.for_each(|(_, event)| context.postponed(event.id)),
            }
            self.serve();
            self.report()?;
        }
        failpoints::after_produce(self.gapless.handle());
        Ok(())
    }

    fn producer(&mut self, route: Route) -> Option<&Client> {
        match route {
            Route::Gapless => Some(&self.gapless),
            Route::Quarantine => self.quarantine(),
            Route::Once => self.once(),
        }
    }
}
