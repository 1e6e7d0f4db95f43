//! Owns the sorting of delivery reports by what a settlement must do about them.
//!
//! Runs in: a relay's background worker, main thread.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use event_outbox_policy::delivery::error_class::ErrorClass;
use event_outbox_policy::delivery::notify::Published;
use event_outbox_policy::delivery::outcome::{Failure, Outcome, Report};
use event_outbox_policy::delivery::window::InFlightEvent;

use super::Relay;
use crate::outbox::table::identity::RowIdentity;
use crate::outbox::table::statements::Refusal;

/// A batch of reports, sorted by what must be done.
#[derive(Default)]
pub(super) struct Sorted {
    pub(super) delivered: Vec<RowIdentity>,
    pub(super) published: Vec<Published>,
    /// Published events whose rows were deleted before.
    pub(super) confirmed: Vec<(i64, Published)>,
    /// Events that were not published, and whose rows were deleted before.
    pub(super) given_up: Vec<GivenUp>,
    pub(super) refused: Vec<Refusal>,
    pub(super) returned: Vec<i64>,
    /// Came back with a refused batch; another event may be at fault.
    pub(super) suspect: Vec<i64>,
    /// Came back because the producer stopped.
    pub(super) stopped: Vec<i64>,
    /// The topics with events that failed by themselves or with their batch.
    pub(super) troubled: HashSet<Arc<str>>,
    /// The topics that refused a timestamp. The value is the refused timestamp that is farthest from the
    /// present.
    pub(super) untimely: HashMap<Arc<str>, i64>,
}

impl Sorted {
    /// The rows that the settlement changes.
    pub(super) fn rows(&self) -> Vec<RowIdentity> {
        self.delivered.iter().copied().chain(self.refused.iter().map(|refusal| refusal.row)).collect()
    }

    /// How many events without rows were answered.
    pub(super) fn answers_without_rows(&self) -> usize {
        self.confirmed.len() + self.given_up.len()
    }

    /// All published events.
    pub(super) fn all_published(&self) -> Cow<'_, [Published]> {
        if self.confirmed.is_empty() {
            return Cow::Borrowed(&self.published);
        }
        self.published.iter().chain(self.confirmed.iter().map(|(_, event)| event)).cloned().collect()
    }

    /// Adds the report of an event without a row: whatever failed, nothing follows.
    fn add_rowless(&mut self, entry: &InFlightEvent<RowIdentity>, outcome: &Outcome) {
        match outcome {
            Outcome::Delivered { partition, offset } => {
                self.confirmed.push((entry.id, published(entry, *partition, *offset)));
            }
            Outcome::Failed { failure, class, error } => {
                let is_refusal = matches!(failure, Failure::Refused | Failure::Suspect);
                self.given_up.push(GivenUp {
                    id: entry.id,
                    topic: entry.topic.clone(),
                    class: is_refusal.then_some(*class),
                    error: error.clone(),
                });
            }
        }
    }

    /// Removes the events with locked rows from the settlement.
    pub(super) fn leave_out(&mut self, locked: &HashSet<i64>) {
        if locked.is_empty() {
            return;
        }
        let mut free = self.delivered.iter().map(|row| !locked.contains(&row.id));
        // `published` and `delivered` have the same events in the same order.
        self.published.retain(|_| free.next().unwrap_or(true));
        self.delivered.retain(|row| !locked.contains(&row.id));
        self.refused.retain(|refusal| !locked.contains(&refusal.row.id));
    }
}

/// An event without a row that was not published.
pub(super) struct GivenUp {
    pub(super) id: i64,
    pub(super) topic: Arc<str>,
    /// The class of the refusal, if Kafka has refused it.
    pub(super) class: Option<ErrorClass>,
    pub(super) error: String,
}

fn published(entry: &InFlightEvent<RowIdentity>, partition: i32, offset: i64) -> Published {
    Published { event_id: entry.row.event_id, topic: entry.topic.clone(), partition, offset }
}

impl Relay {
    /// Sorts reports.
    pub(super) fn sort<'r>(&self, reports: impl Iterator<Item = &'r Report>) -> Sorted {
        let (mut sorted, now) = (Sorted::default(), crate::pg::now());
        for Report { id, outcome } in reports {
            let Some(entry) = self.in_flight.get(*id) else { continue };
            if let Outcome::Failed { class: ErrorClass::InvalidTimestamp, .. } = outcome {
                let farthest = sorted.untimely.entry(entry.topic.clone()).or_insert(entry.record_time);
                *farthest = [*farthest, entry.record_time]
                    .into_iter()
                    .max_by_key(|time| now.abs_diff(*time))
                    .unwrap_or(*farthest);
            }
            if entry.is_row_gone {
                sorted.add_rowless(entry, outcome);
                continue;
            }
            if let Outcome::Failed { failure: Failure::Refused | Failure::Suspect | Failure::Outage, .. } =
                outcome
                && !sorted.troubled.contains(&entry.topic)
            {
                sorted.troubled.insert(entry.topic.clone());
            }
            match outcome {
                Outcome::Delivered { partition, offset } => {
                    sorted.delivered.push(entry.row);
                    sorted.published.push(published(entry, *partition, *offset));
                }
                Outcome::Failed { failure: Failure::Suspect, .. } if !entry.sole_in_flight => {
                    sorted.suspect.push(*id)
                }
                // Without a broker, librdkafka answers from cached metadata; the cause may have been fixed
                // since.
                Outcome::Failed { failure: Failure::Refused, .. } if self.is_disconnected() => {
                    sorted.returned.push(*id);
                }
                Outcome::Failed {
                    failure: Failure::Refused | Failure::Unsendable | Failure::Suspect,
                    class,
                    error,
                } => {
                    let class = *class;
                    let (row, topic) = (entry.row, entry.topic.clone());
                    sorted.refused.push(Refusal { row, topic, class, error: error.clone() });
                }
                Outcome::Failed { failure: Failure::Outage, .. } => sorted.returned.push(*id),
                Outcome::Failed { failure: Failure::Stopped, .. } => sorted.stopped.push(*id),
            }
        }
        sorted
    }
}
