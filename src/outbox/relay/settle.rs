//! Settling: one transaction deletes what Kafka has acknowledged, tells consumers, and reports what it
//! has refused.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use event_outbox_policy::delivery::error_class::{CountedError, ErrorClass};
use event_outbox_policy::delivery::in_flight::Settled;
use event_outbox_policy::delivery::notify::{self, Published};
use event_outbox_policy::delivery::outcome::{Failure, Outcome, Report};
use event_outbox_policy::worker::log_throttle::RepeatCount;
use pgrx::prelude::PgSqlErrorCode;

use super::Relay;
use super::listeners::is_full_queue;
use super::metrics;
use crate::failpoints::{self, Point};
use crate::outbox::published;
use crate::outbox::table::identity::RowIdentity;
use crate::outbox::table::statements::{self, Noted, Refusal};
use crate::pg::compat;
use crate::pg::snapshot::Snapshot;
use crate::worker::transaction;
use crate::worker::transaction::Failed;

/// How long an event rests that came back for no fault of its own, in microseconds.
pub(super) const RETURN_REST_MICROS: i64 = 1_000_000;

/// A batch of reports, sorted by what is to be done.
#[derive(Default)]
struct Sorted {
    delivered: Vec<RowIdentity>,
    published: Vec<Published>,
    refused: Vec<Refusal>,
    returned: Vec<i64>,
    /// Came back with a batch that was refused, maybe for another.
    suspect: Vec<i64>,
    /// Came back since the producer has stopped.
    stopped: Vec<i64>,
    /// Topics of those that failed by themselves or with their batch.
    troubled: HashSet<Arc<str>>,
    /// Topics that refused a time, with that of the records in question which is farthest from the present.
    untimely: HashMap<Arc<str>, i64>,
}

impl Sorted {
    /// The rows that the settlement changes.
    fn rows(&self) -> Vec<RowIdentity> {
        self.delivered.iter().copied().chain(self.refused.iter().map(|refusal| refusal.row)).collect()
    }

    /// Leaves events out of the settlement that would change their rows.
    fn leave_out(&mut self, locked: &HashSet<i64>) {
        if locked.is_empty() {
            return;
        }
        let mut free = self.delivered.iter().map(|row| !locked.contains(&row.id));
        // The two run side by side.
        self.published.retain(|_| free.next().unwrap_or(true));
        self.delivered.retain(|row| !locked.contains(&row.id));
        self.refused.retain(|refusal| !locked.contains(&refusal.row.id));
    }
}

/// How a settlement is made.
#[derive(Debug, Clone, Copy)]
struct Manner {
    /// Without those whose rows others have locked.
    mind_locks: bool,
    /// Listeners are told nothing: they cannot be.
    quietly: bool,
}

/// What a transaction has settled, and what not.
struct Settlement {
    sorted: Sorted,
    /// The refused ones that wait for another attempt, and until when.
    waiting: HashMap<i64, i64>,
    /// Not settled: somebody has changed them since they were read.
    changed: HashSet<i64>,
    /// Not settled: their rows are locked.
    locked: HashSet<i64>,
}

impl Relay {
    /// Settles the oldest reports, up to a batch. What fails to commit is kept and tried again.
    pub(super) fn settle(&mut self) {
        self.retry_faulty();
        if !self.can_settle() {
            return;
        }
        if self.locked_rows.is_due() {
            self.locked_rows.put_back(&mut self.reports);
        }
        let count = self.reports.len().min(self.most_together());
        failpoints::reach(Point::AfterAck);
        self.pace.settled(self.age());
        let batch: Vec<Report> = self.reports.drain(..count).collect();
        match self.settle_together(batch) {
            Ok(()) => {
                self.faulty.met_none();
                self.note(Ok(()));
            }
            Err((batch, failed)) if failed.can_be_of_rows() => self.find_faulty(batch, failed),
            Err((batch, failed)) => {
                batch.into_iter().rev().for_each(|report| self.reports.push_front(report));
                self.note::<()>(Err(failed));
            }
        }
    }

    /// Settles these in one transaction, or gives them back.
    pub(super) fn settle_together(&mut self, reports: Vec<Report>) -> Result<(), (Vec<Report>, Failed)> {
        let mut manner =
            Manner { mind_locks: self.locked_rows.skips_locked(), quietly: !self.listeners.are_reachable() };
        let settled = loop {
            match self.commit(&reports, manner) {
                // Perhaps it is rows that are locked, and not the table: the others need not wait.
                Err(Failed { code: PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE, .. })
                    if !manner.mind_locks =>
                {
                    manner.mind_locks = true;
                }
                Err(failed) if is_full_queue(&failed) && !manner.quietly => manner.quietly = true,
                settled => break settled,
            }
        };
        failpoints::reach(Point::AfterSettle);
        match settled {
            Ok(Some(Settlement { sorted, waiting, changed, locked })) => {
                self.stalled_topics.heard_of(sorted.published.iter().map(|event| &event.topic));
                if manner.quietly {
                    let noted = sorted.refused.iter().filter(|refusal| !changed.contains(&refusal.row.id));
                    self.remember_untold(&sorted.published, noted, &waiting);
                }
                self.close(&sorted, &waiting, &changed);
                self.keep_locked(reports, &locked);
                Ok(())
            }
            Ok(None) => {
                self.extension_dropped = true;
                Ok(())
            }
            Err(failed) => Err((reports, failed)),
        }
    }

    /// The most reports that are settled in one transaction.
    fn most_together(&self) -> usize {
        self.settings.batch_size.min(self.faulty.most_together())
    }

    /// Whether there is something to settle now.
    pub(super) fn can_settle(&self) -> bool {
        let is_time = || self.settlement_date().is_some_and(|date| date <= Instant::now());
        self.db_backoff.is_over(Instant::now())
            && (self.locked_rows.is_due() || self.faulty.is_due() || is_time())
    }

    /// When there will be, if nothing new comes.
    pub(super) fn next_settlement(&self) -> Option<Instant> {
        let failed = self.db_backoff.until().filter(|_| !self.db_backoff.is_over(Instant::now()));
        let set_aside = self.locked_rows.until().into_iter().chain(self.faulty.until());
        failed.or_else(|| set_aside.chain(self.listeners.until()).chain(self.settlement_date()).min())
    }

    /// When to settle the reports that there are: not too soon after the last time, unless a batch is full or
    /// reading waits for room.
    fn settlement_date(&self) -> Option<Instant> {
        let full = self.reports.len() >= self.most_together() || !self.has_room();
        let paced = || self.started_at + self.pace.next_settlement(self.age());
        (!self.reports.is_empty()).then(|| if full { Instant::now() } else { paced() })
    }

    /// One transaction. `None` if the extension is gone.
    fn commit(&self, reports: &[Report], manner: Manner) -> Result<Option<Settlement>, Failed> {
        let mut sorted = self.sort(reports.iter());
        let mode = self.settings.notify;
        transaction::run(c"event_outbox: settling published events", || {
            let outbox = self.outbox()?;
            let _snapshot = Snapshot::take();
            let locked = if manner.mind_locks {
                statements::locked_by_others(outbox, &sorted.rows())
            } else {
                HashSet::new()
            };
            sorted.leave_out(&locked);
            let mut changed: HashSet<i64> =
                statements::delete(outbox, &sorted.delivered).into_iter().collect();
            failpoints::reach(Point::InSettle);
            if !manner.quietly {
                statements::notify(notify::notifications(mode, &sorted.published));
            }
            let Noted { waiting, changed: others } = statements::report_refused(outbox, &sorted.refused);
            changed.extend(others);
            if manner.quietly {
                // Those of triggers as well.
                compat::forget_notifications();
            }
            Some(Settlement { sorted, waiting, changed, locked })
        })
    }

    /// After the commit: these of the settled reports are not, since others have locked their rows.
    fn keep_locked(&mut self, mut reports: Vec<Report>, locked: &HashSet<i64>) {
        reports.retain(|report| locked.contains(&report.id));
        let first = reports.first().map_or(0, |report| report.id);
        reports.iter().for_each(|report| self.keep_waiting(report));
        if self.locked_rows.keep(reports) {
            let count = self.locked_rows.len();
            tracing::warn!(
                "{count} event(s) cannot be settled, since other sessions have locked their rows, the first is {first}; others go on"
            );
            self.slot.show_error(&format!("another session has locked the row of event {first}"));
        }
    }

    fn sort<'r>(&self, reports: impl Iterator<Item = &'r Report>) -> Sorted {
        let (mut sorted, now) = (Sorted::default(), crate::pg::now());
        for Report { id, outcome } in reports {
            let Some(entry) = self.in_flight.get(*id) else { continue };
            if let Outcome::Failed { failure: Failure::Refused | Failure::Suspect | Failure::Outage, .. } =
                outcome
                && !sorted.troubled.contains(&entry.topic)
            {
                sorted.troubled.insert(entry.topic.clone());
            }
            if let Outcome::Failed { class: ErrorClass::InvalidTimestamp, .. } = outcome {
                let farthest = sorted.untimely.entry(entry.topic.clone()).or_insert(entry.record_time);
                *farthest = [*farthest, entry.record_time]
                    .into_iter()
                    .max_by_key(|time| now.abs_diff(*time))
                    .unwrap_or(*farthest);
            }
            match outcome {
                Outcome::Delivered { partition, offset } => {
                    sorted.delivered.push(entry.row);
                    sorted.published.push(Published {
                        event_id: entry.row.event_id,
                        topic: entry.topic.clone(),
                        partition: *partition,
                        offset: *offset,
                    });
                }
                Outcome::Failed { failure: Failure::Suspect, .. } if !entry.sole_in_flight => {
                    sorted.suspect.push(*id)
                }
                // Without a broker, librdkafka answers from what it remembers, which may have been mended
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

    /// After the commit: lets go of what is settled. `waiting` are the refused events that wait for their
    /// next attempt, and until when; a refused one that is not among them is dead, or was deleted by hand.
    /// Those that somebody has `changed` are read again.
    fn close(&mut self, sorted: &Sorted, waiting: &HashMap<i64, i64>, changed: &HashSet<i64>) {
        for row in sorted.delivered.iter().filter(|row| !changed.contains(&row.id)) {
            self.settled(row.id, Settled::Delivered);
        }
        changed.iter().for_each(|id| self.settled(*id, Settled::GivenBack));
        for Refusal { row, .. } in sorted.refused.iter().filter(|refusal| !changed.contains(&refusal.row.id))
        {
            let until = waiting.get(&row.id).copied();
            self.settled(row.id, until.map_or(Settled::Dead, Settled::RetryAt));
        }
        if !(sorted.refused.is_empty()
            && sorted.returned.is_empty()
            && sorted.suspect.is_empty()
            && sorted.stopped.is_empty())
        {
            self.give_up_unreplicated();
        }
        let now = crate::pg::now();
        for (topic, time) in &sorted.untimely {
            self.timestamps.refused(topic, *time, now);
        }
        let rested = Settled::Returned(now + RETURN_REST_MICROS);
        sorted.returned.iter().for_each(|id| self.settled(*id, rested));
        sorted.suspect.iter().for_each(|id| self.settled(*id, Settled::Suspect(now)));
        // They are for the next producer.
        sorted.stopped.iter().for_each(|id| self.settled(*id, Settled::GivenBack));
        self.take_care_of(sorted);
        self.count(sorted);
        published::condition().broadcast();
    }

    /// An event is no longer in flight.
    fn settled(&mut self, id: i64, what: Settled) {
        let again = self.in_flight.settled(id, what);
        self.reader.reread(again);
    }

    /// Handles topics with caution from now on whose batches the broker refuses, and all that would make the
    /// next producer stop as it did this one.
    fn take_care_of(&mut self, sorted: &Sorted) {
        if sorted.suspect.is_empty() && !self.producer.is_leaving() {
            return;
        }
        for topic in &sorted.troubled {
            self.in_flight.quarantine(topic);
        }
    }

    fn count(&mut self, sorted: &Sorted) {
        let (delivered, refused) = (sorted.delivered.len(), sorted.refused.len());
        let metrics = metrics::of(self.slot);
        metrics.refused.fetch_add(i64::try_from(refused).unwrap_or(0), Ordering::Relaxed);
        if delivered > 0 {
            metrics.count_published(delivered, crate::pg::now());
        }
        sorted.refused.iter().for_each(|refusal| metrics.count_error(CountedError::Refusal(refusal.class)));
        if let Some(Refusal { row, error, .. }) = sorted.refused.first() {
            self.slot.show_error(&format!("event {} was refused: {error}", row.id));
        }
        self.log_refusals(&sorted.refused);
    }

    /// The first refusal of each topic and kind, and later how many there were.
    fn log_refusals(&mut self, refused: &[Refusal]) {
        let now = self.age();
        for run in refused.chunk_by(|a, b| a.class == b.class && a.topic == b.topic) {
            let Some(Refusal { row, topic, class, error }) = run.first() else { continue };
            if self.refusals.record(&(topic.clone(), *class), run.len() as u64, now) {
                tracing::warn!("Kafka refused event {} of topic \"{topic}\": {error}", row.id);
            }
        }
    }

    /// Says how many refusals there were, where that has not been said for a while.
    pub(super) fn log_refusal_counts(&mut self) {
        for RepeatCount { kind, count } in self.refusals.due(self.age()) {
            match kind {
                Some((topic, class)) => {
                    tracing::warn!("Kafka refused {count} more event(s) of topic \"{topic}\" ({class})");
                }
                None => tracing::warn!("Kafka refused {count} more event(s) of other topics"),
            }
        }
    }
}
