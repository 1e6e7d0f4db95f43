//! Owns the batches some of whose events wait until Kafka has said whether their topics exist.
//!
//! The events of a topic leave in the order in which they came: none of them leaves before Kafka has answered, and then all do.
//!
//! Runs in: the Kafka thread.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use event_outbox_policy::delivery::topic_ramp::Route;
use event_outbox_policy::event::event_batch::EventBatch;
use event_outbox_policy::kafka::known_topics::Knowledge;

use super::messages::ProduceBatch;

/// What is known of a batch's topics, by their places.
pub type Fates = Vec<Knowledge>;

/// Held batches, in the order in which they came.
#[derive(Debug, Default)]
pub struct HeldBatches(VecDeque<HeldBatch>);

#[derive(Debug)]
struct HeldBatch {
    batch: ProduceBatch,
    /// By route.
    places: [Places; Route::ALL.len()],
}

/// Which of a batch's topics wait.
#[derive(Debug)]
struct Places {
    waits: Vec<bool>,
    left: usize,
}

impl HeldBatches {
    /// Whether no event waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keeps a batch, if the fate of any of its topics is unknown. `fates` are those of its parts, by route.
    pub fn hold(&mut self, batch: ProduceBatch, fates: &[Fates; Route::ALL.len()]) {
        let held = HeldBatch { batch, places: fates.each_ref().map(Places::unknown) };
        if held.has_left() {
            self.0.push_back(held);
        }
    }

    /// Calls `release` for the batches with events of these topics, in order, with what is known of them now, route by route.
    /// Events whose fate is still unknown stay.
    ///
    /// # Errors
    /// That of `release`. What is left is lost.
    pub fn release<E>(
        &mut self,
        decided: &HashMap<Arc<str>, Knowledge>,
        mut release: impl FnMut(&EventBatch, &Fates, Route) -> Result<(), E>,
    ) -> Result<(), E> {
        for mut held in std::mem::take(&mut self.0) {
            for route in Route::ALL {
                let events = held.batch.part(route);
                if let Some(fates) = held.places[route as usize].decide(events.topics(), decided) {
                    release(events, &fates, route)?;
                }
            }
            if held.has_left() {
                self.0.push_back(held);
            }
        }
        Ok(())
    }
}

impl HeldBatch {
    fn has_left(&self) -> bool {
        self.places.iter().any(|places| places.left > 0)
    }
}

impl Places {
    fn unknown(fates: &Fates) -> Self {
        let waits: Vec<bool> = fates.iter().map(|fate| *fate == Knowledge::Unknown).collect();
        let left = waits.iter().filter(|waits| **waits).count();
        Self { waits, left }
    }

    /// The fates of those that waited and are decided. `None` if there are none.
    fn decide(&mut self, topics: &[Arc<str>], decided: &HashMap<Arc<str>, Knowledge>) -> Option<Fates> {
        let left = self.left;
        let fates = self.waits.iter_mut().zip(topics).map(|(waits, topic)| match decided.get(topic) {
            Some(fate) if *waits => {
                *waits = false;
                self.left -= 1;
                *fate
            }
            _ => Knowledge::Unknown,
        });
        let fates: Fates = fates.collect();
        (self.left < left).then_some(fates)
    }
}
