//! Owns the batches some of whose events wait until Kafka has said whether their topics exist.
//!
//! The events of a topic leave in the order in which they came: none of them leaves before Kafka has answered, and then all do.
//!
//! Runs in: the Kafka thread.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

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
    gapless: Places,
    quarantine: Places,
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

    /// Keeps a batch, if the fate of any of its topics is unknown.
    pub fn hold(&mut self, batch: ProduceBatch, gapless: &Fates, quarantine: &Fates) {
        let (gapless, quarantine) = (Places::unknown(gapless), Places::unknown(quarantine));
        if gapless.left + quarantine.left > 0 {
            self.0.push_back(HeldBatch { batch, gapless, quarantine });
        }
    }

    /// Calls `release` for the batches with events of these topics, in order, with what is known of them now: first for the
    /// gapless events, then for the quarantined ones. Events whose fate is still unknown stay.
    ///
    /// # Errors
    /// That of `release`. What is left is lost.
    pub fn release<E>(
        &mut self,
        decided: &HashMap<Arc<str>, Knowledge>,
        mut release: impl FnMut(&EventBatch, &Fates, bool) -> Result<(), E>,
    ) -> Result<(), E> {
        for held in std::mem::take(&mut self.0) {
            let HeldBatch { batch, mut gapless, mut quarantine } = held;
            for (events, places, is_quarantine) in
                [(&batch.gapless, &mut gapless, false), (&batch.quarantine, &mut quarantine, true)]
            {
                if let Some(fates) = places.decide(events.topics(), decided) {
                    release(events, &fates, is_quarantine)?;
                }
            }
            if gapless.left + quarantine.left > 0 {
                self.0.push_back(HeldBatch { batch, gapless, quarantine });
            }
        }
        Ok(())
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
