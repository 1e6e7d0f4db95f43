//! Owns the choice of the events that a pass takes from its rows, and how each is put into the batch.
//!
//! Runs in: a relay's background worker, main thread, in the transaction that reads.

use std::collections::HashSet;
use std::sync::Arc;

use event_outbox_policy::delivery::error_class::ErrorClass;
use event_outbox_policy::delivery::expiry::{self, Fate};
use event_outbox_policy::delivery::in_flight::{By, Candidate, InFlight, Offer, Verdict};
use event_outbox_policy::delivery::lanes::Lane;
use event_outbox_policy::delivery::mode::{Deliveries, DeliveryMode};
use event_outbox_policy::delivery::outcome::{Failure, Outcome, Report};
use event_outbox_policy::delivery::topic_ramp::{Admission, Route};
use event_outbox_policy::delivery::window::{InFlightEvent, Taken};
use event_outbox_policy::event::draft;
use event_outbox_policy::event::envelope::Envelope;
use event_outbox_policy::event::event_batch::BatchSize;
use event_outbox_policy::event::size::{self, LARGEST_EVENT, Reason, Size};
use event_outbox_policy::event::timestamps::Timestamps;
use event_outbox_policy::reading::reader::{self, Range, Table, Visited};
use foldhash::fast::RandomState;

use super::mistakes;
use super::settle::RETURN_REST_MICROS;
use super::stalled_topics::StalledTopics;
use crate::kafka::producer::messages::ProduceBatch;
use crate::outbox::table::identity::RowIdentity;
use crate::outbox::table::row::EventRow;
use crate::outbox::table::rows::Events;
use crate::pg::durability::{Commits, Place};
use crate::pg::varlena;

/// How many topic names are stored for sharing. When there are more, the store is cleared.
const MAX_TOPICS: usize = 10_000;

/// Larger events are read only if there is memory for them, because librdkafka ends the process when there is
/// none.
const LARGE: usize = 1 << 20;

/// How many copies of an event are in memory while it is handed over: the read row, its batch, and
/// librdkafka's queue.
const COPIES: usize = 3;

/// A pass over the rows of `outbox.events`.
pub(super) type Pass<'a> = reader::Pass<'a, RowIdentity>;

/// A batch that was read and is not handed over yet.
pub(super) struct PendingBatch {
    pub(super) batch: ProduceBatch,
    pub(super) taken: Taken<RowIdentity>,
    /// The taken events that are not handed over, and why.
    pub(super) unsendable: Vec<Report>,
    /// The transactions that have written the rows.
    pub(super) commits: Option<Commits>,
    /// The place up to which the standbys must have the log, if any are required.
    pub(super) place: Option<Place>,
}

impl PendingBatch {
    /// Creates one with room for a batch of the last one's size, because the batches of a backlog are alike.
    pub(super) fn as_large_as(last: BatchSize) -> Self {
        Self {
            batch: ProduceBatch::with_room(last),
            taken: Taken::with_capacity(last.events),
            unsendable: Vec::new(),
            commits: None,
            place: None,
        }
    }

    /// Whether no event was taken.
    pub(super) fn is_empty(&self) -> bool {
        self.taken.events().is_empty()
    }

    /// Takes out the events that are delivered at most once. Their commits are on disk when their rows are deleted.
    pub(super) fn split_once(&mut self) -> Self {
        Self {
            batch: self.batch.split_off(Route::Once),
            taken: self.taken.split_rowless(),
            unsendable: Vec::new(),
            commits: None,
            place: None,
        }
    }

    /// How many events were taken.
    pub(super) fn len(&self) -> usize {
        self.taken.events().len()
    }
}

/// The names of the topics that were read, each stored once.
#[derive(Debug, Default)]
pub struct TopicNames(HashSet<Arc<str>, RandomState>);

impl TopicNames {
    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<str>> {
        self.0.iter()
    }

    fn shared(&mut self, name: &str) -> Arc<str> {
        if let Some(topic) = self.0.get(name) {
            return topic.clone();
        }
        if self.0.len() >= MAX_TOPICS {
            self.0.clear();
        }
        let topic: Arc<str> = name.into();
        self.0.insert(topic.clone());
        topic
    }
}

/// The table as a pass reads it, and the destination of the events that it takes.
pub(super) struct Candidates<'a> {
    pub(super) events: &'a Events,
    /// Whether each key keeps its order.
    pub(super) in_order: bool,
    /// How events are delivered, and where topics differ.
    pub(super) delivery: DeliveryMode,
    pub(super) deliveries: &'a Deliveries,
    /// The topic of relays' own records, which nobody must forge.
    pub(super) progress_topic: &'a str,
    /// The form in which events are sent.
    pub(super) envelope: &'a Envelope,
    pub(super) topics: &'a mut TopicNames,
    pub(super) timestamps: &'a mut Timestamps,
    pub(super) stalled_topics: &'a StalledTopics,
    /// Whether Kafka answers.
    pub(super) is_connected: bool,
    /// Set if an event that can expire is held back, because Kafka does not answer.
    pub(super) holds_back: &'a mut bool,
    pub(super) batch: &'a mut ProduceBatch,
    pub(super) unsendable: &'a mut Vec<Report>,
    pub(super) commits: &'a mut Option<Commits>,
}

type Flying = InFlight<RowIdentity>;

/// Why no event goes to the topic of the relays.
fn reserved_topic() -> Reason {
    (ErrorClass::InvalidTopic, "the topic is event_outbox.progress_topic, which is for relays alone".into())
}

impl Table<RowIdentity> for Candidates<'_> {
    fn read(&mut self, in_flight: &mut Flying, pass: &mut Pass<'_>, by: By, range: Range) -> Visited {
        let range = mistakes::range(by, range);
        let mut visited = Visited::new(range);
        let mut is_beyond = false;
        let events = self.events;
        visited.rows = events.read_new(range.after, range.limit, |row| {
            is_beyond = row.id() > range.bound;
            !is_beyond && {
                let verdict = self.consider(row, by, in_flight, pass);
                visited.goes_on(by, row.id(), verdict)
            }
        });
        visited.is_all = visited.ended.is_none() && (is_beyond || visited.rows < range.limit);
        mistakes::has_read(visited.last_id);
        visited
    }

    fn look_up(&mut self, in_flight: &mut Flying, pass: &mut Pass<'_>, id: i64) -> Option<Verdict> {
        let mut verdict = None;
        let events = self.events;
        events.read_new(id.saturating_sub(1), 1, |row| {
            if row.id() == id {
                verdict = Some(self.consider(row, By::Due, in_flight, pass));
            }
            false
        });
        verdict
    }
}

impl Candidates<'_> {
    /// Takes a row if its event may be published now.
    fn consider(
        &mut self,
        row: &EventRow<'_>,
        by: By,
        in_flight: &mut Flying,
        pass: &mut Pass<'_>,
    ) -> Verdict {
        let (id, name) = (row.id(), row.topic());
        let topic = in_flight.topic(&name);
        if matches!(by, By::Turn(turn) if turn != topic) {
            return Verdict::Next;
        }
        if let Some(entry) = in_flight.get(id) {
            if entry.row.event_id != row.event_id() {
                in_flight.rest(topic, None, id, pass.now + RETURN_REST_MICROS);
            }
            return Verdict::Next;
        }
        if pass.taken.has(id) {
            return Verdict::Next;
        }
        let is_known = !in_flight.backlog().is_full() || self.stalled_topics.has_heard_of(&name);
        let fate = expiry::fate(row.expires_at(), pass.now, self.is_connected);
        *self.holds_back |= matches!(fate, Fate::HeldUntil(_));
        let not_before = fate.not_before(row.next_attempt_at());
        let candidate = Candidate { id, topic, not_before, is_known };
        let lane = |in_flight: &Flying| self.lane(row, &name, in_flight);
        match in_flight.offer(candidate, by, pass.now, lane) {
            Ok(offer) if fate == Fate::Expired => {
                let reason = (ErrorClass::Expired, "the event expired before it could be published".into());
                self.refuse(row, offer, reason, in_flight, pass)
            }
            Ok(offer) if name == self.progress_topic => {
                self.refuse(row, offer, reserved_topic(), in_flight, pass)
            }
            Ok(offer) => self.take(row, &name, offer, in_flight, pass),
            Err(verdict) => verdict,
        }
    }

    /// The lane in which the event keeps its order. A key that is too large for any request has no lane.
    fn lane(&self, row: &EventRow<'_>, name: &str, in_flight: &Flying) -> Lane {
        let key = if self.in_order && row.size().key <= LARGEST_EVENT { row.key() } else { None };
        key.map(|key| in_flight.lane(name, &key))
    }

    /// Takes a row that may be sent, if there is room for it.
    fn take(
        &mut self,
        row: &EventRow<'_>,
        name: &str,
        offer: Offer,
        in_flight: &mut Flying,
        pass: &mut Pass<'_>,
    ) -> Verdict {
        let (size, lane) = (row.size(), offer.lane());
        if let Some(reason) = size::unsendable(row.topic_bytes(), size) {
            return self.refuse(row, offer, reason, in_flight, pass);
        }
        // Check the room before the row is unpacked.
        if !pass.room.fits(draft::weight(size)) {
            return in_flight.put_off(offer);
        }
        if size.total() >= LARGE {
            varlena::require_memory(COPIES * size.total());
        }
        // Most events have the same topic as the one before.
        let last = pass.taken.events().last().map(|entry| &entry.topic).filter(|last| ***last == *name);
        let topic = last.cloned().unwrap_or_else(|| self.topics.shared(name));
        let mut event = row.event(&topic);
        event.record_time =
            self.timestamps.record_time(&topic, event.emitted_at, row.is_untimely(), pass.now);
        // An event that is published exactly once is deleted even if somebody has changed it meanwhile.
        let content = (self.delivery != DeliveryMode::ExactlyOnce).then(|| event.fingerprint());
        if self.envelope.wrap(&mut event).is_err() {
            varlena::out_of_memory(event.size().total());
        }
        let mut size = event.size();
        size.headers = size.headers.saturating_add(self.envelope.repeated_bytes(&event));
        if let Some(reason) = size::unsendable(topic.len(), size) {
            return self.refuse(row, offer, reason, in_flight, pass);
        }
        let weight = event.weight(size);
        if !pass.room.fits(weight) {
            return in_flight.put_off(offer);
        }
        let Admission { route, sole_in_flight } = match self.admit(offer, &topic, in_flight, pass) {
            Ok(admission) => admission,
            Err(verdict) => return verdict,
        };
        self.require_commit(row, route);
        pass.room.take(weight);
        if self.batch.part_mut(route).push(&event).is_err() {
            in_flight.withdraw_one(&topic, lane);
            varlena::out_of_memory(event.size().total());
        }
        pass.taken.add(InFlightEvent {
            id: row.id(),
            row: row.identity(content),
            emitted_at: event.emitted_at,
            record_time: event.record_time,
            lane,
            sole_in_flight,
            is_row_gone: route == Route::Once,
            is_open: true,
            place: 0,
            weight,
            topic,
        });
        Verdict::Next
    }

    /// Has the commit of the row flushed. With the deletion of an event that is delivered at most once, all before it is.
    fn require_commit(&mut self, row: &EventRow<'_>, route: Route) {
        let commits = self.commits.as_mut().filter(|commits| commits.matter() && route != Route::Once);
        if let Some(commits) = commits {
            commits.add(row.writer());
        }
    }

    /// Decides whether an event may be sent now, and how.
    fn admit(
        &self,
        offer: Offer,
        topic: &Arc<str>,
        in_flight: &mut Flying,
        pass: &mut Pass<'_>,
    ) -> Result<Admission, Verdict> {
        match self.deliveries.of(topic, self.delivery) {
            // What is in the table is not lost in an outage.
            DeliveryMode::AtMostOnce if !self.is_connected => Err(in_flight.deny_all(offer)),
            DeliveryMode::AtMostOnce => in_flight.admit_once(offer, topic),
            DeliveryMode::AtLeastOnce | DeliveryMode::ExactlyOnce => {
                in_flight.admit(offer, topic, pass.taken)
            }
        }
    }

    /// Takes a row whose event cannot be sent, with the reason.
    fn refuse(
        &mut self,
        row: &EventRow<'_>,
        offer: Offer,
        (class, error): Reason,
        in_flight: &mut Flying,
        pass: &mut Pass<'_>,
    ) -> Verdict {
        let lane = offer.lane();
        in_flight.refuse(offer);
        let outcome = Outcome::Failed { failure: Failure::Unsendable, class, error };
        self.unsendable.push(Report { id: row.id(), outcome });
        pass.taken.add(InFlightEvent {
            id: row.id(),
            row: row.identity(None),
            emitted_at: row.emitted_at(),
            record_time: row.emitted_at(),
            lane,
            sole_in_flight: true,
            is_row_gone: false,
            // No answer of a broker is outstanding.
            is_open: false,
            place: 0,
            weight: draft::weight(Size::default()),
            topic: self.topics.shared(&row.topic()),
        });
        Verdict::Next
    }
}
