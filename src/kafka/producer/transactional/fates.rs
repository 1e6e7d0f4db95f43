//! Asks Kafka which topics exist before a transaction has events for them.
//!
//! Runs in: the Kafka thread of the relay's process.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use event_outbox_policy::kafka::known_topics::Knowledge;
use rdkafka::error::RDKafkaErrorCode;

use super::End;
use super::session::Session;
use crate::kafka::probe::PATIENCE;
use crate::kafka::producer::held_batches::Fates;
use crate::kafka::question::Answer;
use crate::kafka::{config, topics};

/// How often to look whether the thread is still wanted.
const WANTED_CHECK: Duration = Duration::from_millis(500);

impl Session<'_> {
    /// Which of these topics exist. Waits for Kafka's answer.
    pub(super) fn fates(&mut self, topics: &[Arc<str>]) -> Result<Fates, End> {
        // If Kafka may create topics, the producer's own metadata request makes it do so.
        if config::creates_topics(&self.thread.config) {
            topics.iter().for_each(|topic| self.known_topics.mark_opened(topic));
        }
        let now = Instant::now();
        let mut fates: Fates = topics.iter().map(|topic| self.known_topics.look_up(topic, now)).collect();
        while fates.contains(&Knowledge::Unknown) {
            let decided = self.ask()?;
            for (fate, topic) in fates.iter_mut().zip(topics).filter(|(fate, _)| **fate == Knowledge::Unknown)
            {
                *fate = decided.get(topic).copied().unwrap_or(Knowledge::Unknown);
            }
        }
        Ok(fates)
    }

    fn ask(&mut self) -> Result<HashMap<Arc<str>, Knowledge>, End> {
        let names = self.known_topics.ask();
        let question = self.client.ask_about_topics(&names, PATIENCE, &self.thread.wakeup);
        let answer = loop {
            self.thread.wakeup.clear();
            if let Some(answer) = question.answer_within(Duration::ZERO) {
                break answer;
            }
            self.serve()?;
            self.thread.wakeup.wait(Some(WANTED_CHECK));
        };
        drop(question);
        if answer.is_silence() {
            return Err(End::Broken(self.cause("Kafka does not say which topics exist")));
        }
        Ok(self.known_topics.answered(&missing(&answer).iter().map(|name| &**name).collect(), Instant::now()))
    }
}

fn missing(answer: &Answer) -> HashSet<String> {
    // A broker that cannot answer such a question leaves it to the producer to find out.
    let (_, others) = topics::read(answer).unwrap_or_default();
    let is_missing = |code: RDKafkaErrorCode| code == RDKafkaErrorCode::UnknownTopicOrPartition;
    others.into_iter().filter(|(_, code)| is_missing(*code)).map(|(name, _)| name).collect()
}
