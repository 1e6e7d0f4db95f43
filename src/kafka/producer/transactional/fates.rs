//! Asks Kafka which topics and partitions exist before a transaction has events for them.
//!
//! Runs in: the Kafka thread of the relay's process.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use event_outbox_policy::event::draft::Event;
use event_outbox_policy::event::event_batch::EventBatch;
use event_outbox_policy::kafka::known_topics::Knowledge;
use rdkafka::error::RDKafkaErrorCode;

use super::End;
use super::chosen::Chosen;
use super::session::Session;
use crate::kafka::probe::PATIENCE;
use crate::kafka::producer::held_batches::Fates;
use crate::kafka::question::Answer;
use crate::kafka::{config, topics};

/// How often to look whether the thread is still wanted.
const WANTED_CHECK: Duration = Duration::from_millis(500);

/// How many topics a question about partitions names.
const NAMES: usize = 1_000;

impl Session<'_> {
    /// The events of a batch that can be published, as far as Kafka says. Waits for its answer.
    pub(super) fn choose<'b>(&mut self, batch: &'b EventBatch) -> Result<Chosen<'b>, End> {
        let fates = self.fates(batch.topics())?;
        let misplaced = self.misplaced(batch, &fates)?;
        Ok(Chosen::new(batch, fates, misplaced))
    }

    /// The events of existing topics that name a partition which does not exist.
    fn misplaced(&mut self, batch: &EventBatch, fates: &Fates) -> Result<HashSet<i64>, End> {
        let named = |(place, event): (usize, Event<'_>)| {
            let partition = event.partition.filter(|_| fates[place] == Knowledge::Exists)?;
            Some((event.id, &batch.topics()[place], partition))
        };
        let named: Vec<_> = batch.events().filter_map(named).collect();
        let now = Instant::now();
        let is_unknown =
            |topic, partition| self.known_partitions.look_up(topic, partition, now) == Knowledge::Unknown;
        let unknown: HashSet<Arc<str>> = named
            .iter()
            .filter(|(_, topic, partition)| is_unknown(topic, *partition))
            .map(|(_, topic, _)| Arc::clone(topic))
            .collect();
        for names in unknown.into_iter().collect::<Vec<_>>().chunks(NAMES) {
            let answer = self.ask_about(names)?;
            // What a broker does not answer is left to the producer to find out.
            let (found, _) = topics::read(&answer).unwrap_or_default();
            for topic in found {
                self.known_partitions.learn(topic.topic.into(), topic.partitions, Instant::now());
            }
        }
        let now = Instant::now();
        let is_missing =
            |topic, partition| self.known_partitions.look_up(topic, partition, now) == Knowledge::Missing;
        let missing = named.iter().filter(|(_, topic, partition)| is_missing(topic, *partition));
        Ok(missing.map(|(id, ..)| *id).collect())
    }

    /// Which of these topics exist. Waits for Kafka's answer.
    fn fates(&mut self, topics: &[Arc<str>]) -> Result<Fates, End> {
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
        let answer = self.ask_about(&names)?;
        Ok(self.known_topics.answered(&missing(&answer).iter().map(|name| &**name).collect(), Instant::now()))
    }

    fn ask_about(&mut self, names: &[Arc<str>]) -> Result<Answer, End> {
        let question = self.client().ask_about_topics(names, PATIENCE, &self.thread.wakeup);
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
        Ok(answer)
    }
}

fn missing(answer: &Answer) -> HashSet<String> {
    // A broker that cannot answer such a question leaves it to the producer to find out.
    let (_, others) = topics::read(answer).unwrap_or_default();
    let is_missing = |code: RDKafkaErrorCode| code == RDKafkaErrorCode::UnknownTopicOrPartition;
    others.into_iter().filter(|(_, code)| is_missing(*code)).map(|(name, _)| name).collect()
}
