//! Settling: one transaction deletes what Kafka has acknowledged, tells consumers, and reports what it
//! has refused.

use std::sync::atomic::Ordering;
use std::time::Duration;

use event_outbox_domain::notify::{self, Published};
use event_outbox_domain::outcome::{Failure, Outcome, Report};

use super::turn::Relay;
use crate::pg::statements::{self, RowPlace, Snapshot};
use crate::pg::{shared, transaction};

/// How long an event rests that came back for no fault of its own.
const RETURN_REST: Duration = Duration::from_secs(1);

/// A batch of reports, sorted by what is to be done.
#[derive(Default)]
struct Sorted {
    delivered: Vec<(i64, RowPlace)>,
    published: Vec<Published>,
    refused: Vec<(i64, String)>,
    returned: Vec<i64>,
}

impl Relay {
    /// Settles the oldest reports, up to a batch. What fails to commit is kept and tried again.
    pub(super) fn settle(&mut self) {
        if self.reports.is_empty() || !self.database.is_over() {
            return;
        }
        let count = self.reports.len().min(self.settings.batch_size);
        let sorted = self.sort(&self.reports[..count]);
        let mode = self.settings.notify;
        let settled = transaction::run(c"event_outbox: settling published events", || {
            let _snapshot = Snapshot::take();
            statements::delete(&sorted.delivered);
            statements::notify(notify::notifications(mode, &sorted.published));
            statements::report_refused(sorted.refused.clone())
        });
        if let Some(waiting) = self.note(settled) {
            self.reports.drain(..count);
            self.close(&sorted, &waiting);
        }
    }

    fn sort(&self, reports: &[Report]) -> Sorted {
        let mut sorted = Sorted::default();
        for Report { id, outcome } in reports {
            let Some(ticket) = self.window.ticket(*id) else { continue };
            match outcome {
                Outcome::Delivered { partition, offset } => {
                    sorted.delivered.push((*id, ticket.place));
                    sorted.published.push(Published {
                        event_id: ticket.event_id,
                        topic: ticket.topic.clone(),
                        partition: *partition,
                        offset: *offset,
                    });
                }
                Outcome::Failed { failure: Failure::Refused, error } => {
                    sorted.refused.push((*id, error.clone()))
                }
                Outcome::Failed { failure: Failure::Outage | Failure::Fatal, .. } => {
                    sorted.returned.push(*id)
                }
            }
        }
        sorted
    }

    /// After the commit: lets go of what is settled. `waiting` are the refused events that wait for their
    /// next attempt, and until when.
    fn close(&mut self, sorted: &Sorted, waiting: &[(i64, i64)]) {
        for (id, until) in waiting {
            let lane = self.window.ticket(*id).and_then(|ticket| ticket.lane);
            self.lanes.block(lane, *id, *until);
        }
        let rested = crate::pg::now() + i64::try_from(RETURN_REST.as_micros()).unwrap_or(i64::MAX);
        for id in &sorted.returned {
            let lane = self.window.ticket(*id).and_then(|ticket| ticket.lane);
            self.lanes.block(lane, *id, rested);
        }
        for (id, _) in &sorted.delivered {
            let lane = self.window.remove(*id).and_then(|ticket| ticket.lane);
            if let Some(behind) = self.lanes.release(lane, *id) {
                self.floor.rewind(behind);
                self.look = true;
            }
        }
        for id in sorted.refused.iter().map(|(id, _)| id).chain(&sorted.returned) {
            self.window.remove(*id);
        }
        self.count(sorted);
        shared::roster().tell_settled();
    }

    fn count(&self, sorted: &Sorted) {
        let (delivered, refused) = (sorted.delivered.len(), sorted.refused.len());
        self.slot.published.fetch_add(i64::try_from(delivered).unwrap_or(0), Ordering::Relaxed);
        self.slot.refused.fetch_add(i64::try_from(refused).unwrap_or(0), Ordering::Relaxed);
        if delivered > 0 {
            self.slot.last_publish_at.store(crate::pg::now(), Ordering::Relaxed);
        }
        if let Some((id, error)) = sorted.refused.first() {
            self.slot.show_error(&format!("event {id} was refused: {error}"));
            tracing::warn!("Kafka refused {refused} events, the first is {id}: {error}");
        }
    }
}
