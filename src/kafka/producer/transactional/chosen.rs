//! Owns which events of a batch a transaction publishes: those of topics and partitions that exist. The others are refused
//! before it begins, since one refusal would end it.
//!
//! Runs in: the Kafka thread of the relay's process.

use std::collections::HashSet;
use std::sync::Arc;

use event_outbox_policy::delivery::outcome::Report;
use event_outbox_policy::event::draft::Event;
use event_outbox_policy::event::event_batch::EventBatch;
use event_outbox_policy::kafka::known_topics::Knowledge;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::kafka::error_class;
use crate::kafka::producer::held_batches::Fates;

/// The events of a batch that a transaction publishes.
pub struct Chosen<'b> {
    /// The batch.
    pub batch: &'b EventBatch,
    fates: Fates,
    /// The events of partitions that do not exist.
    misplaced: HashSet<i64>,
}

impl<'b> Chosen<'b> {
    /// Those of topics that exist, without these events of partitions that do not.
    #[must_use]
    pub fn new(batch: &'b EventBatch, fates: Fates, misplaced: HashSet<i64>) -> Self {
        Self { batch, fates, misplaced }
    }

    /// Those of these topics.
    #[must_use]
    pub fn only(&self, topics: &HashSet<Arc<str>>) -> Self {
        let fates = self.batch.topics().iter().zip(&self.fates);
        let fates =
            fates.map(|(topic, fate)| if topics.contains(topic) { *fate } else { Knowledge::Unknown });
        Self { batch: self.batch, fates: fates.collect(), misplaced: self.misplaced.clone() }
    }

    /// The topic of each event.
    pub fn topics(&self) -> impl Iterator<Item = &'b Arc<str>> {
        self.events().map(|(place, _)| &self.batch.topics()[place])
    }

    /// The events, each with the place of its topic.
    pub fn events(&self) -> impl Iterator<Item = (usize, Event<'b>)> {
        let is_chosen =
            |place: usize, id: i64| self.fates[place] == Knowledge::Exists && !self.misplaced.contains(&id);
        self.batch.events().filter(move |(place, event)| is_chosen(*place, event.id))
    }

    /// The reports of the others.
    #[must_use]
    pub fn refusals(&self) -> Vec<Report> {
        let code_of = |place: usize, id: i64| match self.fates[place] {
            Knowledge::Missing => Some(RDKafkaErrorCode::UnknownTopic),
            _ => self.misplaced.contains(&id).then_some(RDKafkaErrorCode::UnknownPartition),
        };
        let refusal = |(place, event): (usize, Event<'_>)| {
            let error = KafkaError::MessageProduction(code_of(place, event.id)?);
            Some(Report { id: event.id, outcome: error_class::outcome(&error) })
        };
        self.batch.events().filter_map(refusal).collect()
    }
}
