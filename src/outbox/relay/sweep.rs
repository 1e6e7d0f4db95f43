//! Sweeping: reading the rows that have become visible, and handing them to Kafka.

use std::collections::HashSet;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use event_outbox_policy::delivery::outcome::{Failure, Outcome, Report};
use event_outbox_policy::delivery::topic_ramp::{Admission, Route};
use event_outbox_policy::event::draft;
use event_outbox_policy::event::event_batch::{BatchSize, EventBatch};
use event_outbox_policy::event::size::{self, LARGEST_EVENT, Reason, Size};
use event_outbox_policy::reading::backlog::Topic;
use event_outbox_policy::reading::floor::{Floor, Horizon, Reached};

use super::main_loop::{Relay, STALL};
use super::metrics;
use super::readers::{Pass, Reader, Verdict};
use super::registration::REREAD;
use super::settle::RETURN_REST_MICROS;
use super::window::{Ticket, Window};
use crate::failpoints::{self, Point, Sabotage};
use crate::kafka::producer::messages::ProduceBatch;
use crate::outbox::table::outbox::Outbox;
use crate::outbox::table::row::EventRow;
use crate::outbox::table::statements;
use crate::pg::durability::{Commits, Place};
use crate::pg::snapshot::Snapshot;
use crate::pg::varlena;
use crate::worker::{process, transaction};

/// What the relay can sleep at least: less, and it had better be woken.
const WORTH_MUTING: Duration = Duration::from_millis(1);

/// Topic names kept for sharing; a database that names more begins anew.
const MAX_TOPICS: usize = 10_000;

/// From here on, an event is only read when there is memory for it: librdkafka ends the process where there is none.
const LARGE: usize = 1 << 20;

/// How often an event is in memory while it is handed over: as read, in its batch, and in librdkafka's queue.
const COPIES: usize = 3;

/// A batch that was read and is not handed over yet.
#[derive(Default)]
pub(super) struct PendingBatch {
    batch: ProduceBatch,
    tickets: Vec<Ticket>,
    /// Those of the tickets whose events are not handed over, and why.
    unsendable: Vec<Report>,
    /// The transactions that have written the rows.
    commits: Option<Commits>,
    /// Up to where the standbys must have the log, if any are required.
    place: Option<Place>,
    /// The lanes of what was in flight when it was first asked.
    in_flight: Option<HashSet<u64>>,
    /// The ids of the tickets, once somebody else than the reader of new rows reads.
    ids: Option<HashSet<i64>>,
}

impl PendingBatch {
    /// With room for a batch as the last one was: a backlog's batches are alike.
    fn as_large_as(last: BatchSize) -> Self {
        let batch = ProduceBatch { gapless: EventBatch::with_room(last), quarantine: EventBatch::default() };
        Self { batch, tickets: Vec::with_capacity(last.events), ..Self::default() }
    }

    /// Whether nothing was found that is to be published.
    pub(super) fn is_empty(&self) -> bool {
        self.tickets.is_empty()
    }

    /// How many events were taken.
    pub(super) fn len(&self) -> usize {
        self.tickets.len()
    }

    /// From now on rows come in any order, and maybe twice.
    pub(super) fn remember_ids(&mut self) {
        self.ids = Some(self.tickets.iter().map(|ticket| ticket.row.id).collect());
    }

    fn has(&self, id: i64) -> bool {
        self.ids.as_ref().is_some_and(|ids| ids.contains(&id))
    }

    fn add(&mut self, ticket: Ticket) {
        if let Some(ids) = &mut self.ids {
            ids.insert(ticket.row.id);
        }
        self.tickets.push(ticket);
    }

    fn lowest_id(&self) -> Option<i64> {
        self.tickets.iter().map(|ticket| ticket.row.id).min()
    }

    /// Whether an event of this lane is in flight or about to be: two routes would not keep their order.
    fn is_on_its_way(&mut self, lane: Option<u64>, window: &Window) -> bool {
        let Some(lane) = lane else { return false };
        let in_flight = self.in_flight.get_or_insert_with(|| window.lanes().collect());
        in_flight.contains(&lane) || self.tickets.iter().any(|ticket| ticket.lane == Some(lane))
    }
}

impl Relay {
    /// Reads one batch and hands it over, if there may be something and there is room.
    pub(super) fn sweep(&mut self) {
        if !self.can_sweep() {
            return;
        }
        let now = crate::pg::now();
        self.reread_pending |= self.lanes.due(now);
        if self.slot.take_notice(REREAD) {
            self.lanes.end_waits();
            self.net = Some(0);
        }
        if Instant::now() >= self.next_full_sweep {
            self.next_full_sweep = Instant::now() + self.settings.sweep_interval;
            if self.window.is_empty() {
                process::give_memory_back();
            }
            self.net = Some(0);
            self.lanes.recheck(|id| self.window.ticket(id).is_some());
        }
        if self.next_sweep().is_none_or(|date| date > Instant::now()) {
            return;
        }
        // Answered before the look, so that a commit after it rings anew.
        self.slot.wakeup.take();
        self.reread_pending = false;
        let mut pending = PendingBatch::as_large_as(self.last_batch);
        let read = transaction::run(c"event_outbox: reading new events", || self.read(now, &mut pending));
        if read.is_err() {
            self.floor.abandon();
            self.backlog.abandon();
            self.put_back(&pending);
        }
        match self.note(read) {
            Some(Some(reached)) => {
                self.pace.swept(self.age(), pending.tickets.len());
                self.expect_more(pending.tickets.len());
                self.floor.end(reached);
                let stalled = self.backlog.is_full() && pending.is_empty();
                self.stalled = stalled.then(|| Instant::now() + STALL);
                let place = pending.place;
                self.hand_over_replicated(pending, place);
            }
            Some(None) => self.extension_dropped = true,
            None => {}
        }
    }

    /// While events come so fast that the next look is near whoever rings, nobody need ring for it: commits are spared a
    /// system call, and the relay a wake-up.
    fn expect_more(&self, found: usize) {
        if found > 0 && self.pace.next_sweep(self.age()) >= self.age() + WORTH_MUTING {
            self.slot.wakeup.suppress();
        }
    }

    /// In a transaction: one pass, as far as the batch size and the room in the window go. `None` if the
    /// extension is gone.
    fn read(&mut self, now: i64, pending: &mut PendingBatch) -> Option<Reached> {
        let outbox = self.outbox()?;
        let (horizon, snapshot) = self.take_horizon(outbox);
        // Whoever paused it, and however: an event that was committed after that is not read.
        if outbox.is_paused_for_snapshot() {
            self.set_paused(true);
            return Some(Reached::End);
        }
        pending.commits = Some(Commits::of_pass());
        let pass = self.floor.begin(horizon);
        let (events, room) = (outbox.events(), self.window.room(self.limits()));
        let reached = self.read_all(pass.after, Pass::new(&events, now, room, pending));
        if failpoints::sabotaged(Sabotage::DeleteBeforeAck) {
            let _ = statements::delete(
                outbox,
                &pending.tickets.iter().map(|ticket| ticket.row).collect::<Vec<_>>(),
            );
        }
        drop(snapshot);
        if !pending.tickets.is_empty() && !failpoints::sabotaged(Sabotage::PublishUnflushed) {
            pending.place = pending.commits.as_ref().and_then(Commits::flush);
        }
        failpoints::reach(Point::AfterRead);
        metrics::of(self.slot).sweeps.fetch_add(1, Ordering::Relaxed);
        Some(reached)
    }

    /// What is to be noted before rows are read. A sequence that begins anew, as after TRUNCATE … RESTART IDENTITY, may have
    /// come past where it was already; but it lies in another file then.
    fn take_horizon(&mut self, outbox: Outbox) -> (Horizon, Snapshot) {
        loop {
            let seen = outbox.take_horizon();
            // After the snapshot: whatever it shows was numbered by this sequence.
            let file = outbox.sequence_file();
            match self.sequence_file.replace(file) {
                Some(before) if before != file => self.floor = Floor::new(),
                _ => return seen,
            }
        }
    }

    /// In a transaction: the outbox that this relay serves, `None` if it is gone. One that was created in its place counts
    /// its ids from 1 again: it is for another relay, which is rung for.
    pub(super) fn outbox(&self) -> Option<Outbox> {
        let found = Outbox::locate()?;
        if *self.served_outbox.get_or_init(|| found) == found {
            return Some(found);
        }
        self.slot.wakeup.set();
        None
    }

    /// Takes a row if it is to be published now.
    pub(super) fn offer(&mut self, row: &EventRow<'_>, by: Reader, pass: &mut Pass<'_>) -> Verdict {
        let id = row.id();
        let name = row.topic();
        let of = self.topic_of(&name);
        if let Reader::Turn(topic) = by
            && topic != of
        {
            return Verdict::Next;
        }
        if let Some(ticket) = self.window.ticket(id) {
            if ticket.row.event_id != row.event_id() {
                // The sequence was set back, and this one has the id of another in flight: it comes later.
                self.backlog.leave_behind(of);
                self.lanes.block(of, None, id, pass.now + RETURN_REST_MICROS);
            }
            return Verdict::Next;
        }
        if by == Reader::New && self.backlog.holds(of) {
            self.backlog.want(of, id);
            return Verdict::Next;
        }
        if by == Reader::New && self.backlog.is_full() && !self.stalled_topics.has_heard_of(&name) {
            return Verdict::NoRoom;
        }
        if pass.pending.has(id) {
            return Verdict::Next;
        }
        let size = row.size();
        let ordered = self.settings.producer.ordered && !failpoints::sabotaged(Sabotage::RetryAtTail);
        // A key that no request can carry keeps its order with nothing.
        let key = if ordered && size.key <= LARGEST_EVENT { row.key() } else { None };
        let lane = key.map(|key| self.lane(&name, &key));
        if let Reader::Turn(_) = by
            && self.lanes.is_open(lane, id)
            && self.lanes.is_saturated(of, id)
        {
            return Verdict::Saturated;
        }
        if row.next_attempt_at().is_some() {
            self.backlog.leave_behind(of);
        }
        if !self.lanes.try_admit(of, lane, id, row.next_attempt_at(), pass.now) {
            return Verdict::Next;
        }
        let verdict = self.take(row, (&name, of), lane, pass);
        if verdict != Verdict::Next {
            self.put_off(of, lane, id);
        }
        verdict
    }

    /// An event that was let through is not in flight after all. If it holds its lane, its topic's turn meets it again.
    pub(super) fn put_off(&mut self, topic: Topic, lane: Option<u64>, id: i64) {
        if self.lanes.put_off(lane, id) {
            self.backlog.want(topic, id);
        }
    }

    /// Takes a row that nobody holds back, if there is room for it.
    fn take(
        &mut self,
        row: &EventRow<'_>,
        (name, of): (&str, Topic),
        lane: Option<u64>,
        pass: &mut Pass<'_>,
    ) -> Verdict {
        let (id, size, room) = (row.id(), row.size(), &mut pass.room);
        let pending = &mut *pass.pending;
        if let Some(reason) = size::unsendable(row.topic_bytes(), size) {
            self.refuse(row, of, lane, reason, pending);
            return Verdict::Next;
        }
        // Before it is unpacked.
        if !room.fits(draft::weight(size)) {
            return Verdict::NoRoom;
        }
        if size.total() >= LARGE {
            varlena::require_memory(COPIES * size.total());
        }
        // Most events go where the one before went.
        let last = pending.tickets.last().map(|ticket| &ticket.topic).filter(|last| ***last == *name);
        let topic = last.cloned().unwrap_or_else(|| self.shared_topic(name));
        let mut event = row.event(&topic);
        event.record_time =
            self.timestamps.record_time(&topic, event.emitted_at, row.is_untimely(), pass.now);
        let size = event.size();
        if let Some(reason) = size::unsendable(topic.len(), size) {
            self.refuse(row, of, lane, reason, pending);
            return Verdict::Next;
        }
        let weight = event.weight(size);
        if !room.fits(weight) {
            return Verdict::NoRoom;
        }
        let Some(Admission { mut route, sole_in_flight }) = self.ramp.try_admit(&topic, id, lane) else {
            self.backlog.deny(of, id);
            return Verdict::Denied { for_all: !self.ramp.takes_more(&topic) };
        };
        if row.next_attempt_at().is_some() && !pending.is_on_its_way(lane, &self.window) {
            // What was refused may well be again.
            route = Route::Quarantine;
        }
        if let Some(commits) = pending.commits.as_mut().filter(|commits| commits.matter()) {
            commits.add(row.writer());
        }
        room.take(weight);
        let batch = match route {
            Route::Gapless => &mut pending.batch.gapless,
            Route::Quarantine => &mut pending.batch.quarantine,
        };
        if batch.push(&event).is_err() {
            if let Some(turned_away) = self.ramp.withdraw(&topic, lane) {
                self.backlog.allow(of, turned_away);
            }
            varlena::out_of_memory(event.size().total());
        }
        pending.add(Ticket {
            row: row.identity(Some(event.fingerprint())),
            emitted_at: event.emitted_at,
            record_time: event.record_time,
            lane,
            sole_in_flight,
            is_open: true,
            place: 0,
            weight,
            topic,
        });
        Verdict::Next
    }

    /// Takes a row of which it is known without sending it what becomes of it, and why.
    fn refuse(
        &mut self,
        row: &EventRow<'_>,
        of: Topic,
        lane: Option<u64>,
        (class, error): Reason,
        pending: &mut PendingBatch,
    ) {
        self.backlog.leave_behind(of);
        self.lanes.hold_back(of, lane, row.id());
        let outcome = Outcome::Failed { failure: Failure::Unsendable, class, error };
        pending.unsendable.push(Report { id: row.id(), outcome });
        pending.add(Ticket {
            row: row.identity(None),
            emitted_at: row.emitted_at(),
            record_time: row.emitted_at(),
            lane,
            sole_in_flight: true,
            // No broker has to answer.
            is_open: false,
            place: 0,
            weight: draft::weight(Size::default()),
            topic: self.shared_topic(&row.topic()),
        });
    }

    /// The lane of a topic and key. Should two share a number, they wait for each other, no more.
    fn lane(&self, topic: &str, key: &[u8]) -> u64 {
        self.topics.hasher().hash_one((topic, key))
    }

    /// The topic, as those that are behind are told apart.
    pub(super) fn topic_of(&self, name: &str) -> Topic {
        self.topics.hasher().hash_one(name)
    }

    fn shared_topic(&mut self, name: &str) -> Arc<str> {
        if let Some(topic) = self.topics.get(name) {
            return topic.clone();
        }
        if self.topics.len() >= MAX_TOPICS {
            self.topics.clear();
        }
        let topic: Arc<str> = name.into();
        self.topics.insert(topic.clone());
        topic
    }

    /// What was read is not sent after all, and is to be read again.
    pub(super) fn put_back(&mut self, pending: &PendingBatch) {
        if let Some(first) = pending.lowest_id() {
            self.withdraw(first, &pending.tickets);
        }
    }

    fn withdraw(&mut self, lowest_id: i64, tickets: &[Ticket]) {
        self.reread_pending = true;
        self.floor.rewind(lowest_id - 1);
        for Ticket { row, topic, lane, is_open, .. } in tickets {
            let turned_away = if *is_open { self.ramp.withdraw(topic, *lane) } else { None };
            let of = self.topic_of(topic);
            self.put_off(of, *lane, row.id);
            if self.backlog.holds(of) {
                self.backlog.allow(of, turned_away.map_or(row.id, |other| other.min(row.id)));
            }
        }
    }

    pub(super) fn hand_over(&mut self, pending: PendingBatch) {
        let Some(lowest_id) = pending.lowest_id() else { return };
        let PendingBatch { batch, tickets, unsendable, .. } = pending;
        self.last_batch = batch.gapless.extent();
        match self.publisher.as_ref().map(|publisher| publisher.publish(batch)) {
            Some(true) => {
                tickets.into_iter().for_each(|ticket| self.window.add(ticket));
                self.reports.extend(unsendable);
            }
            Some(false) => self.withdraw(lowest_id, &tickets),
            None => {}
        }
    }
}
