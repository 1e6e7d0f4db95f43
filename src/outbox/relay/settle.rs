//! Owns the settlement: one transaction deletes the events that Kafka has acknowledged, notifies listeners,
//! and records the refusals.
//!
//! Runs in: a relay's background worker, main thread.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::time::Instant;

use event_outbox_policy::delivery::error_class::CountedError;
use event_outbox_policy::delivery::in_flight::Settled;
use event_outbox_policy::delivery::notify;
use event_outbox_policy::delivery::outcome::Report;
use event_outbox_policy::worker::log_throttle::RepeatCount;
use pgrx::prelude::PgSqlErrorCode;

use super::Relay;
use super::archive;
use super::exactly_once::listed;
use super::listeners::is_full_queue;
use super::metrics;
use super::sorted::{GivenUp, Sorted};
use crate::failpoints::{self, Point};
use crate::outbox::published;
use crate::outbox::table::delivery;
use crate::outbox::table::statements::{self, Noted, Refusal};
use crate::pg::compat;
use crate::pg::snapshot::Snapshot;
use crate::worker::transaction;
use crate::worker::transaction::Failed;

/// How long an event waits that came back through no fault of its own, in microseconds.
pub(super) const RETURN_REST_MICROS: i64 = 1_000_000;

/// The options of a settlement.
#[derive(Debug, Clone, Copy)]
struct Options {
    /// Leaves out the events whose rows other sessions have locked.
    skip_locked: bool,
    /// Sends no notifications, because the queue is full.
    silent: bool,
}

/// The result of a settlement.
struct Settlement {
    sorted: Sorted,
    /// The refused events that wait for another attempt, and until when.
    waiting: HashMap<i64, i64>,
    /// Events that were not settled because their rows have changed since they were read.
    changed: HashSet<i64>,
    /// Events that were not settled because their rows are locked.
    locked: HashSet<i64>,
}

impl Relay {
    /// Settles the oldest reports, up to a batch. If the commit fails, they are kept and retried.
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

    /// Settles these reports in one transaction. If it fails, returns them with the error.
    pub(super) fn settle_together(&mut self, reports: Vec<Report>) -> Result<(), (Vec<Report>, Failed)> {
        let mut options =
            Options { skip_locked: self.locked_rows.skips_locked(), silent: !self.listeners.are_reachable() };
        let settled = loop {
            match self.commit(&reports, options) {
                // Perhaps only some rows are locked, not the table. Then the other rows need not wait.
                Err(Failed { code: PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE, .. })
                    if !options.skip_locked =>
                {
                    options.skip_locked = true;
                }
                Err(failed) if is_full_queue(&failed) && !options.silent => options.silent = true,
                settled => break settled,
            }
        };
        failpoints::reach(Point::AfterSettle);
        match settled {
            Ok(Some(Settlement { sorted, waiting, changed, locked })) => {
                self.unflushed.add(reports.len(), self.most_unflushed());
                let published = sorted.all_published();
                self.stalled_topics.heard_of(published.iter().map(|event| &event.topic));
                if options.silent {
                    let noted = sorted.refused.iter().filter(|refusal| !changed.contains(&refusal.row.id));
                    self.remember_missed(&published, noted, &waiting);
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

    /// The largest number of reports that are settled in one transaction.
    fn most_together(&self) -> usize {
        self.settings.batch_size.min(self.faulty.most_together()).min(self.most_unflushed())
    }

    /// How many events may be settled and not be on disk. With the three quarters that may be in flight, a crash publishes
    /// no more than `event_outbox.max_in_flight` again, and a marker lists no more than fit into it.
    fn most_unflushed(&self) -> usize {
        (self.most_in_flight() / 4).max(1)
    }

    /// Whether a settlement is due.
    pub(super) fn can_settle(&self) -> bool {
        let is_time = || self.settlement_date().is_some_and(|date| date <= Instant::now());
        self.db_backoff.is_over(Instant::now())
            && (self.locked_rows.is_due() || self.faulty.is_due() || is_time())
    }

    /// When a settlement is due, if no more reports arrive.
    pub(super) fn next_settlement(&self) -> Option<Instant> {
        let failed = self.db_backoff.until().filter(|_| !self.db_backoff.is_over(Instant::now()));
        let set_aside = self.locked_rows.until().into_iter().chain(self.faulty.until());
        failed.or_else(|| set_aside.chain(self.listeners.until()).chain(self.settlement_date()).min())
    }

    /// When to settle the present reports: not too soon after the last settlement, unless a batch is full or
    /// reading waits for room.
    fn settlement_date(&self) -> Option<Instant> {
        let full = self.reports.len() >= self.most_together() || !self.has_room();
        let paced = || self.started_at + self.pace.next_settlement(self.age());
        (!self.reports.is_empty()).then(|| if full { Instant::now() } else { paced() })
    }

    /// Runs the transaction. Returns `None` if the extension was dropped.
    fn commit(&self, reports: &[Report], options: Options) -> Result<Option<Settlement>, Failed> {
        let mut sorted = self.sort(reports.iter());
        let mode = self.settings.notify;
        let confirmed = self.once.claims.confirmed_by(sorted.answers_without_rows());
        transaction::run(c"event_outbox: settling published events", || {
            let outbox = self.outbox()?;
            self.unflushed.make_room(reports.len(), self.most_unflushed());
            let _snapshot = Snapshot::take();
            let locked = if options.skip_locked {
                statements::locked_by_others(outbox, &sorted.rows())
            } else {
                HashSet::new()
            };
            sorted.leave_out(&locked);
            let mut changed: HashSet<i64> =
                archive::delete(outbox, &sorted.delivered, &sorted.published).into_iter().collect();
            failpoints::reach(Point::InSettle);
            if !options.silent {
                statements::notify(notify::notifications(mode, &sorted.all_published()));
            }
            if let Some(upto) = confirmed {
                delivery::confirm(upto);
            }
            let Noted { waiting, changed: others } = statements::report_refused(outbox, &sorted.refused);
            changed.extend(others);
            if options.silent {
                // This also removes the notifications that triggers have sent.
                compat::forget_notifications();
            }
            Some(Settlement { sorted, waiting, changed, locked })
        })
    }

    /// After the commit: keeps the reports that were not settled because other sessions have locked the rows.
    fn keep_locked(&mut self, mut reports: Vec<Report>, locked: &HashSet<i64>) {
        reports.retain(|report| locked.contains(&report.id));
        let first = reports.first().map_or(0, |report| report.id);
        reports.iter().for_each(|report| self.keep_waiting(report));
        if self.locked_rows.keep(reports) {
            let count = self.locked_rows.len();
            tracing::warn!(
                "could not settle {count} event(s), the first is {first}, since other sessions have locked their rows; \
                 other events are settled"
            );
            self.slot.show_error(&format!("another session has locked the row of event {first}"));
        }
    }

    /// After the commit: removes the settled events from those in flight. `waiting` has the refused events
    /// that wait for their next attempt, and until when. A refused event that is not in it is dead, or was
    /// deleted by hand. The `changed` events are read again.
    fn close(&mut self, sorted: &Sorted, waiting: &HashMap<i64, i64>, changed: &HashSet<i64>) {
        for row in sorted.delivered.iter().filter(|row| !changed.contains(&row.id)) {
            self.settled(row.id, Settled::Delivered);
        }
        if self.exactly.is_on() {
            let gone = sorted.delivered.iter().filter(|row| !changed.contains(&row.id));
            self.exactly.deleted(gone.map(listed));
        }
        sorted.confirmed.iter().for_each(|(id, _)| self.settled(*id, Settled::Delivered));
        sorted.given_up.iter().for_each(|lost| self.settled(lost.id, Settled::GivenUp));
        self.once.claims.recorded(sorted.answers_without_rows());
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
        let settled = sorted.delivered.iter().chain(sorted.refused.iter().map(|refusal| &refusal.row));
        self.count_gone(settled.filter(|row| !changed.contains(&row.id) && !waiting.contains_key(&row.id)));
        let now = crate::pg::now();
        for (topic, time) in &sorted.untimely {
            self.timestamps.refused(topic, *time, now);
        }
        let rested = Settled::Returned(now + RETURN_REST_MICROS);
        sorted.returned.iter().for_each(|id| self.settled(*id, rested));
        sorted.suspect.iter().for_each(|id| self.settled(*id, Settled::Suspect(now)));
        // The next producer sends them.
        sorted.stopped.iter().for_each(|id| self.settled(*id, Settled::GivenBack));
        self.quarantine_troubled(sorted);
        self.count(sorted);
        published::condition().broadcast();
    }

    /// Removes an event from those in flight.
    fn settled(&mut self, id: i64, what: Settled) {
        let again = self.in_flight.settled(id, what);
        self.reader.reread(again);
    }

    /// Quarantines the topics whose batches the broker refused. If the producer is being replaced,
    /// quarantines all troubled topics, because they would stop the next producer as well.
    fn quarantine_troubled(&mut self, sorted: &Sorted) {
        // In transactions, an event of such a topic would abort those of all others.
        if sorted.suspect.is_empty() && !self.producer.is_leaving() && !self.exactly.is_on() {
            return;
        }
        for topic in &sorted.troubled {
            self.in_flight.quarantine(topic);
        }
    }

    fn count(&mut self, sorted: &Sorted) {
        let delivered = sorted.delivered.len() + sorted.confirmed.len();
        let refused = sorted.refused.iter().filter(|refusal| refusal.class.is_refusal()).count();
        let metrics = metrics::of(self.slot);
        metrics.refused.fetch_add(i64::try_from(refused).unwrap_or(0), Ordering::Relaxed);
        if delivered > 0 {
            metrics.count_published(delivered, crate::pg::now());
        }
        sorted.refused.iter().for_each(|refusal| metrics.count_error(CountedError::Refusal(refusal.class)));
        // That an event expires is not an error of the relay.
        if let Some(Refusal { row, error, .. }) =
            sorted.refused.iter().find(|refusal| refusal.class.is_refusal())
        {
            self.slot.show_error(&format!("event {} was refused: {error}", row.id));
        }
        self.log_refusals(&sorted.refused);
        let given_up = i64::try_from(sorted.given_up.len()).unwrap_or(0);
        metrics.given_up.fetch_add(given_up, Ordering::Relaxed);
        for GivenUp { id, topic, class, error } in &sorted.given_up {
            class.iter().for_each(|class| metrics.count_error(CountedError::Refusal(*class)));
            self.log_given_up(*id, topic, error);
        }
    }

    /// Logs the first refusal of each topic and class. Later ones are counted.
    fn log_refusals(&mut self, refused: &[Refusal]) {
        let now = self.age();
        for run in refused.chunk_by(|a, b| a.class == b.class && a.topic == b.topic) {
            let Some(Refusal { row, topic, class, error }) = run.first() else { continue };
            if self.refusals.record(&(topic.clone(), *class), run.len() as u64, now) {
                let event = format!("event {} of topic \"{topic}\"", row.id);
                if class.is_refusal() {
                    tracing::warn!("Kafka refused {event}: {error}");
                } else {
                    tracing::warn!("{event} is a dead letter: {error}");
                }
            }
        }
    }

    /// Logs the counts of refusals that are due.
    pub(super) fn log_refusal_counts(&mut self) {
        for RepeatCount { kind, count } in self.refusals.due(self.age()) {
            match kind {
                Some((topic, class)) => {
                    let refused = if class.is_refusal() { "Kafka refused" } else { "dead letters:" };
                    tracing::warn!("{refused} {count} more event(s) of topic \"{topic}\" ({class})");
                }
                None => tracing::warn!("Kafka refused {count} more event(s) of other topics"),
            }
        }
    }
}
