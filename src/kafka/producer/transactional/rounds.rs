//! Divides what was read among transactions, and gives back what must wait.
//!
//! Runs in: the Kafka thread of the relay's process.

use std::collections::HashSet;

use event_outbox_policy::delivery::marker::EventPart;
use event_outbox_policy::delivery::outcome::Report;
use event_outbox_policy::delivery::topic_ramp::Route;
use event_outbox_policy::event::draft::Event;
use event_outbox_policy::event::event_batch::EventBatch;

use super::End;
use super::chosen::Chosen;
use super::session::Session;
use super::transaction::{given_back, is_at_fault};
use crate::kafka::producer::messages::ProducerEvent;

/// How often the same events are tried without an answer about any of them, before another producer is started.
const MOST_ATTEMPTS: u32 = 3;

impl Session<'_> {
    /// Publishes the parts of batches that go this way, or gives them back.
    pub(super) fn publish(&mut self, batches: &[&EventBatch], route: Route) -> Result<(), End> {
        if self.is_rolled_back {
            let events = batches.iter().flat_map(|batch| batch.events());
            return self.report(events.map(|(_, event)| given_back(event.id)).collect());
        }
        let all = batches.iter().map(|batch| self.choose(batch)).collect::<Result<Vec<_>, _>>()?;
        self.report(all.iter().flat_map(Chosen::refusals).collect())?;
        match route {
            Route::Gapless | Route::Once => self.publish_together(&all),
            Route::Quarantine => self.publish_apart(&all),
        }
    }

    /// In one transaction, and in one more for each topic that has failed.
    fn publish_apart(&mut self, all: &[Chosen<'_>]) -> Result<(), End> {
        let topics = all.iter().flat_map(Chosen::topics).cloned().collect();
        for topics in self.apart.divide(topics) {
            let some: Vec<_> = all.iter().map(|chosen| chosen.only(&topics)).collect();
            self.publish_together(&some)?;
            if !self.is_rolled_back && topics.len() == 1 {
                topics.iter().for_each(|topic| self.apart.went_well(topic));
            }
        }
        Ok(())
    }

    /// In one transaction, unless another one was rolled back.
    fn publish_together(&mut self, all: &[Chosen<'_>]) -> Result<(), End> {
        let chosen = all.iter().flat_map(Chosen::events);
        if self.is_rolled_back {
            return self.report(chosen.map(|(_, event)| given_back(event.id)).collect());
        }
        let of_marker = |(_, event): (usize, Event<'_>)| (event.id, EventPart::of(&event.event_id));
        let events: Vec<_> = chosen.map(of_marker).collect();
        if events.is_empty() {
            return Ok(());
        }
        for _ in 0..MOST_ATTEMPTS {
            if self.attempt(all, events.clone())? {
                return Ok(());
            }
        }
        let why = format!("{MOST_ATTEMPTS} transactions in a row were aborted, and no event was refused");
        Err(End::Broken(self.cause(&why)))
    }

    /// Notes the topics whose events took a transaction back.
    pub(super) fn set_apart(&mut self, all: &[Chosen<'_>], reports: &[Report]) {
        let failed: HashSet<i64> =
            reports.iter().filter(|report| is_at_fault(report)).map(|report| report.id).collect();
        for chosen in all {
            let failed = chosen.events().filter(|(_, event)| failed.contains(&event.id));
            let places: HashSet<usize> = failed.map(|(place, _)| place).collect();
            places.into_iter().for_each(|place| self.apart.failed(&chosen.batch.topics()[place]));
        }
    }

    fn report(&self, reports: Vec<Report>) -> Result<(), End> {
        if reports.is_empty() { Ok(()) } else { self.thread.send(ProducerEvent::Reports(reports)) }
    }
}
