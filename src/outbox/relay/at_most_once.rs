//! Owns the delivery at most once: rows are deleted, and the deletion is durable, before their events are published.
//!
//! Runs in: a relay's background worker, main thread.
//!
//! Nothing is ever published whose row could come back: a crash loses what is between the two steps. If a row cannot be
//! deleted, its event is not published, and its followers of the same key wait.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use event_outbox_policy::delivery::claims::Claims;
use event_outbox_policy::delivery::mode::{Deliveries, DeliveryMode};
use event_outbox_policy::event::topic::Pattern;
use event_outbox_policy::worker::log_throttle::{LogThrottle, RepeatCount};
use pgrx::prelude::PgSqlErrorCode;

use super::candidates::PendingBatch;
use super::registration::DELIVERY_CHANGED;
use super::unreplicated::{REPORT_AFTER, WAITS};
use super::{Relay, metrics, mistakes};
use crate::failpoints::{self, Point};
use crate::kafka::producer::handle::ProducerHandle;
use crate::outbox::published;
use crate::outbox::table::identity::RowIdentity;
use crate::outbox::table::{delivery, statements};
use crate::pg::durability::{self, Place};
use crate::pg::snapshot::Snapshot;
use crate::worker::transaction::{self, Failed};

/// How long an event waits whose row is locked, in microseconds.
const LOCKED_MICROS: i64 = 500_000;

/// How long an event waits whose row cannot be deleted, in microseconds.
const FAULTY_MICROS: i64 = 30_000_000;

/// How many events whose rows cannot be deleted are remembered, so that each is logged once.
const MOST_FAULTY: usize = 1_000;

/// The first and the longest time between two looks whether the standbys have a deletion.
const PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(250));

/// The events whose rows are deleted.
pub struct AtMostOnce {
    pub(super) deliveries: Deliveries,
    pub(super) claims: Claims,
    /// A batch whose rows are deleted, and that is not handed over yet.
    claimed: Option<Claimed>,
    /// How many rows are read, and deleted, together. Small while one of them cannot be deleted.
    most_together: usize,
    faulty: VecDeque<i64>,
    lost: LogThrottle<Arc<str>>,
    /// What an earlier relay has left is counted.
    has_counted: bool,
}

struct Claimed {
    pending: PendingBatch,
    /// The place up to which the standbys must have the log, if any are required.
    place: Option<Place>,
    since: Instant,
    next_look: Instant,
    pause: Duration,
    /// The wait for standbys has taken so long that it was reported.
    is_reported: bool,
}

impl Default for AtMostOnce {
    fn default() -> Self {
        Self {
            deliveries: Deliveries::default(),
            claims: Claims::default(),
            claimed: None,
            most_together: usize::MAX,
            faulty: VecDeque::new(),
            lost: LogThrottle::default(),
            has_counted: false,
        }
    }
}

impl AtMostOnce {
    /// Whether deleted events wait to be handed over.
    #[must_use]
    pub fn has_claimed(&self) -> bool {
        self.claimed.is_some()
    }

    /// Whether deleted events have waited for a standby so long that it was reported.
    #[must_use]
    pub fn is_reported(&self) -> bool {
        self.claimed.as_ref().is_some_and(|claimed| claimed.is_reported)
    }

    /// When to look again whether they can be handed over.
    #[must_use]
    pub fn next_look(&self) -> Option<Instant> {
        self.claimed.as_ref().map(|claimed| claimed.next_look)
    }

    /// How many rows to read at a time.
    #[must_use]
    pub fn most_together(&self) -> usize {
        self.most_together
    }
}

impl Relay {
    /// Reads how topics are delivered when the relay has started, or after a notice that it may have changed. What an
    /// earlier relay has not seen confirmed is counted as lost: nobody knows what became of it.
    pub(super) fn read_delivery(&mut self) {
        if !self.slot.has_notice(DELIVERY_CHANGED) || !self.db_backoff.is_over(Instant::now()) {
            return;
        }
        self.slot.take_notice(DELIVERY_CHANGED);
        let counts = !self.once.has_counted;
        let read = transaction::run(c"event_outbox: looking how topics are delivered", || {
            let _snapshot = Snapshot::take();
            (delivery::topics(), if counts { delivery::take() } else { 0 })
        });
        let Some((topics, lost)) = self.note(read) else {
            self.slot.notify(DELIVERY_CHANGED);
            return;
        };
        let own = topics
            .iter()
            .filter_map(|(pattern, mode)| Some((Pattern::new(pattern), DeliveryMode::parse(mode)?)));
        let deliveries = Deliveries::new(own.collect());
        if counts {
            self.once.has_counted = true;
            self.count_unconfirmed(lost);
            self.once.deliveries = deliveries;
        } else if deliveries != self.once.deliveries {
            self.once.deliveries = deliveries;
            // What is on its way must not be overtaken in another way of delivery.
            self.renew_soon();
        }
        self.reader.note_new_rows();
    }

    fn count_unconfirmed(&self, lost: i64) {
        if lost > 0 {
            metrics::of(self.slot).given_up.fetch_add(lost, Ordering::Relaxed);
            tracing::warn!(
                "up to {lost} event(s) of delivery at most once were on their way when the relay last ended; \
                 some of them may be lost"
            );
        }
    }

    /// Deletes the rows of these events, and hands the events over when that is durable.
    pub(super) fn claim(&mut self, pending: PendingBatch) {
        if pending.is_empty() {
            return;
        }
        let rows: Vec<RowIdentity> = pending.taken.events().iter().map(|entry| entry.row).collect();
        if mistakes::publishes_first() {
            self.hand_over(pending);
            let _ = transaction::run(c"event_outbox: a mistake", || {
                let _snapshot = Snapshot::take();
                self.outbox().map(|outbox| statements::delete(outbox, &rows))
            });
            return;
        }
        let claim = self.once.claims.next();
        let deleted = transaction::run(c"event_outbox: deleting events before they are published", || {
            let outbox = self.outbox()?;
            let _snapshot = Snapshot::take();
            statements::delete_unchanged(outbox, &rows);
            delivery::add(claim, rows.len());
            failpoints::reach(Point::InClaim);
            durability::force_sync_commit();
            Some(())
        });
        match deleted {
            Ok(Some(())) => {
                failpoints::reach(Point::AfterClaim);
                self.once.claims.committed(rows.len());
                self.once.most_together = self.once.most_together.saturating_mul(2);
                self.note(Ok(()));
                self.count_gone(rows.iter());
                published::condition().broadcast();
                let place = durability::are_standbys_required().then(Place::of_last_commit);
                let (since, pause) = (Instant::now(), PAUSE.0);
                self.once.claimed =
                    Some(Claimed { pending, place, since, next_look: since, pause, is_reported: false });
                self.hand_over_claimed();
            }
            Ok(None) => self.extension_dropped = true,
            Err(failed) => {
                self.put_back(&pending);
                self.claim_failed(&pending, &rows, failed);
            }
        }
    }

    /// Hands deleted events over, as soon as the required standbys have the deletion and a producer takes them.
    pub(super) fn hand_over_claimed(&mut self) {
        let Some(mut claimed) = self.once.claimed.take() else { return };
        let has_room = self.producer.handle().is_some_and(ProducerHandle::has_room);
        let is_durable = claimed.place.is_none_or(durability::is_on_standbys);
        if self.may_publish() && has_room && is_durable {
            self.hand_over(claimed.pending);
            return;
        }
        let now = Instant::now();
        if !is_durable && !claimed.is_reported && now >= claimed.since + REPORT_AFTER {
            claimed.is_reported = true;
            tracing::warn!("{WAITS}");
            self.slot.show_error(WAITS);
        }
        if now >= claimed.next_look {
            claimed.pause = (claimed.pause * 2).min(PAUSE.1);
            claimed.next_look = now + claimed.pause;
        }
        self.once.claimed = Some(claimed);
    }

    /// Nothing was deleted, and so nothing is published. Finds out what was in the way; the rows are read again.
    fn claim_failed(&mut self, pending: &PendingBatch, rows: &[RowIdentity], failed: Failed) {
        self.once.most_together = (rows.len() / 2).max(1);
        match failed.code {
            // Rows have changed. They are read again as they are now.
            PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE => {}
            PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE => self.rest_locked(pending, rows),
            _ if failed.can_be_of_rows() => {
                if let [row] = rows {
                    self.rest_faulty(pending, row.id, &failed);
                }
            }
            _ => {
                self.note::<()>(Err(failed));
            }
        }
    }

    fn rest_locked(&mut self, pending: &PendingBatch, rows: &[RowIdentity]) {
        let found = transaction::run(c"event_outbox: looking for locked rows", || {
            let outbox = self.outbox()?;
            let _snapshot = Snapshot::take();
            Some(statements::locked_by_others(outbox, rows))
        });
        match self.note(found) {
            Some(Some(locked)) => {
                self.once.most_together = usize::MAX;
                self.let_rest(pending, &locked, LOCKED_MICROS);
            }
            Some(None) => self.extension_dropped = true,
            None => {}
        }
    }

    fn rest_faulty(&mut self, pending: &PendingBatch, id: i64, failed: &Failed) {
        // `outbox.check()` recognizes this text.
        let text = format!("event {id} is not published, since its row cannot be deleted: {failed}");
        self.slot.show_error(&text);
        if !self.once.faulty.contains(&id) {
            tracing::warn!("{text}; later events of its topic and key wait");
            self.once.faulty.push_back(id);
            if self.once.faulty.len() > MOST_FAULTY {
                self.once.faulty.pop_front();
            }
        }
        self.let_rest(pending, &HashSet::from([id]), FAULTY_MICROS);
    }

    /// Lets these events wait, and with them later ones of their keys.
    fn let_rest(&mut self, pending: &PendingBatch, ids: &HashSet<i64>, micros: i64) {
        let until = crate::pg::now() + micros;
        for entry in pending.taken.events().iter().filter(|entry| ids.contains(&entry.id)) {
            let topic = self.in_flight.topic(&entry.topic);
            self.in_flight.rest(topic, entry.lane, entry.id, until);
        }
    }

    /// How many events in flight have no row any more, and would be lost with their producer.
    pub(super) fn count_rowless(&self) -> usize {
        if self.once.claims.is_empty() { 0 } else { self.in_flight.window().count_rowless(&HashSet::new()) }
    }

    /// Events without rows were handed over, and their producer is gone.
    pub(super) fn give_up_lost(&mut self, count: usize) {
        if count > 0 {
            self.once.claims.give_up(count);
            metrics::of(self.slot).given_up.fetch_add(i64::try_from(count).unwrap_or(0), Ordering::Relaxed);
            tracing::warn!(
                "the producer ended with {count} event(s) of delivery at most once on their way; some of them may be lost"
            );
        }
    }

    /// Logs that events of a topic are given up: the first at once, others as a count.
    pub(super) fn log_given_up(&mut self, id: i64, topic: &Arc<str>, error: &str) {
        if self.once.lost.record(topic, 1, self.age()) {
            tracing::warn!(
                "event {id} of topic \"{topic}\" is given up, since it is delivered at most once: {error}"
            );
        }
    }

    /// Logs the counts of events that were given up.
    pub(super) fn log_given_up_counts(&mut self) {
        for RepeatCount { kind, count } in self.once.lost.due(self.age()) {
            let topic = kind.map_or_else(|| "other topics".into(), |topic| format!("topic \"{topic}\""));
            tracing::warn!("{count} more event(s) of {topic} are given up");
        }
    }

    /// When the next such count is due.
    pub(super) fn next_given_up_count(&self) -> Option<Instant> {
        self.once.lost.next_due().map(|due| self.started_at + due)
    }
}
