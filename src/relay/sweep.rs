//! Sweeping: reading the rows that have become visible, and handing them to Kafka.

use std::collections::HashSet;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use event_outbox_domain::caution::{Admission, Route};
use event_outbox_domain::event;
use event_outbox_domain::outcome::{Failure, Outcome, Report};
use event_outbox_domain::packed::{Extent, Packed};
use event_outbox_domain::size::{self, LARGEST_EVENT, Reason, Size};
use event_outbox_domain::sweep::{Floor, Horizon, Reached};

use super::settle::RETURN_REST_MICROS;
use super::turn::Relay;
use super::window::{Room, Ticket, Window};
use crate::failpoints::{self, Point, Sabotage};
use crate::kafka::publisher::Batch;
use crate::pg::durable::{Commits, Place};
use crate::pg::rows::Found;
use crate::pg::statements::{self, Outbox, Snapshot};
use crate::pg::{process, transaction, varlena};

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
pub(super) struct Catch {
    batch: Batch,
    tickets: Vec<Ticket>,
    /// Those of the tickets whose events are not handed over, and why.
    unsendable: Vec<Report>,
    /// The transactions that have written the rows.
    commits: Option<Commits>,
    /// Up to where the standbys must have the log, if any are required.
    place: Option<Place>,
    /// The lanes of what was in flight when it was first asked.
    in_flight: Option<HashSet<u64>>,
}

impl Catch {
    /// With room for a batch as the last one was: a backlog's batches are alike.
    fn as_large_as(last: Extent) -> Self {
        let batch = Batch { common: Packed::with_room(last), apart: Packed::default() };
        Self { batch, tickets: Vec::with_capacity(last.events), ..Self::default() }
    }

    /// Whether nothing was found that is to be published.
    pub(super) fn is_empty(&self) -> bool {
        self.tickets.is_empty()
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
        if let Some(id) = self.lanes.due(now) {
            self.floor.rewind(id);
            self.look = true;
        }
        if self.slot.reread.swap(false, Ordering::AcqRel) {
            self.floor.rewind(0);
            self.look = true;
        }
        if Instant::now() >= self.next_full_sweep {
            self.next_full_sweep = Instant::now() + self.settings.sweep_interval;
            if self.window.is_empty() {
                process::give_memory_back();
            }
            self.floor.rewind(0);
            self.lanes.recheck(|id| self.window.ticket(id).is_some());
            self.look = true;
        }
        if self.next_sweep().is_none_or(|date| date > Instant::now()) {
            return;
        }
        // Answered before the look, so that a commit after it rings anew.
        self.slot.bell.answer();
        self.look = false;
        let mut catch = Catch::as_large_as(self.last_batch);
        let read = transaction::run(c"event_outbox: reading new events", || self.read(now, &mut catch));
        if read.is_err() {
            self.floor.abandon();
            self.withdraw(&catch.tickets);
        }
        match self.note(read) {
            Some(Some(reached)) => {
                self.pace.swept(self.age(), catch.tickets.len());
                self.expect_more(catch.tickets.len());
                self.floor.end(reached);
                if let Some(behind) = self.lanes.swept(reached) {
                    self.floor.rewind(behind);
                }
                let place = catch.place;
                self.hand_over_replicated(catch, place);
            }
            Some(None) => self.gone = true,
            None => {}
        }
    }

    /// While events come so fast that the next look is near whoever rings, nobody need ring for it: commits are spared a
    /// system call, and the relay a wake-up.
    fn expect_more(&self, found: usize) {
        if found > 0 && self.pace.next_sweep(self.age()) >= self.age() + WORTH_MUTING {
            self.slot.bell.mute();
        }
    }

    /// In a transaction: one pass, as far as the batch size and the room in the window go. `None` if the
    /// extension is gone.
    fn read(&mut self, now: i64, catch: &mut Catch) -> Option<Reached> {
        let outbox = self.outbox()?;
        let (horizon, snapshot) = self.look(outbox);
        catch.commits = Some(Commits::of_pass());
        let pass = self.floor.begin(horizon);
        let limit = self.settings.batch_size;
        let mut room = self.window.room(self.limits());
        let after = failpoints::cursor(pass.after);
        let mut last_id = after;
        let mut cut_off = false;
        let found = outbox.events().read_new(after, limit, |row| {
            cut_off = !self.consider(row, now, &mut room, catch);
            if !cut_off {
                last_id = row.id();
            }
            !cut_off
        });
        failpoints::passed(last_id);
        if failpoints::sabotaged(Sabotage::DeleteBeforeAck) {
            let _ = statements::delete(
                outbox,
                &catch.tickets.iter().map(|ticket| ticket.row).collect::<Vec<_>>(),
            );
        }
        drop(snapshot);
        if !catch.tickets.is_empty() && !failpoints::sabotaged(Sabotage::PublishUnflushed) {
            catch.place = catch.commits.as_ref().and_then(Commits::flush);
        }
        failpoints::reach(Point::AfterRead);
        self.slot.figures.sweeps.fetch_add(1, Ordering::Relaxed);
        Some(if cut_off || found >= limit { Reached::Id(last_id) } else { Reached::End })
    }

    /// What is to be noted before rows are read. A sequence that begins anew, as after TRUNCATE … RESTART IDENTITY, may have
    /// come past where it was already; but it lies in another file then.
    fn look(&mut self, outbox: Outbox) -> (Horizon, Snapshot) {
        loop {
            let seen = outbox.look();
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
        if *self.served.get_or_init(|| found) == found {
            return Some(found);
        }
        self.slot.bell.ring();
        None
    }

    /// Takes a row if it is to be published now. `false` if there is no room for it.
    fn consider(&mut self, row: &Found<'_>, now: i64, room: &mut Room, catch: &mut Catch) -> bool {
        let id = row.id();
        if let Some(ticket) = self.window.ticket(id) {
            if ticket.row.event_id != row.event_id() {
                // The sequence was set back, and this one has the id of another in flight: it comes later.
                self.lanes.block(None, id, now + RETURN_REST_MICROS);
            }
            return true;
        }
        let (topic, size) = (row.topic(), row.size());
        let ordered = self.settings.producer.ordered && !failpoints::sabotaged(Sabotage::RetryAtTail);
        // A key that no request can carry keeps its order with nothing.
        let key = if ordered && size.key <= LARGEST_EVENT { row.key() } else { None };
        let lane = key.map(|key| self.lane(&topic, &key));
        if !self.lanes.admits(lane, id, row.next_attempt_at(), now) {
            return true;
        }
        if let Some(reason) = size::unsendable(row.topic_bytes(), size) {
            self.refuse(row, lane, reason, catch);
            return true;
        }
        // Before it is unpacked.
        if !room.fits(event::weight(size)) {
            return false;
        }
        if size.total() >= LARGE {
            varlena::require_memory(COPIES * size.total());
        }
        // Most events go where the one before went.
        let last = catch.tickets.last().map(|ticket| &ticket.topic).filter(|last| ***last == *topic);
        let topic = last.cloned().unwrap_or_else(|| self.shared_topic(&topic));
        let mut event = row.event(&topic);
        event.record_time = self.timestamps.record_time(&topic, event.emitted_at, row.is_untimely(), now);
        let size = event.size();
        if let Some(reason) = size::unsendable(topic.len(), size) {
            self.refuse(row, lane, reason, catch);
            return true;
        }
        let weight = event.weight(size);
        if !room.fits(weight) {
            return false;
        }
        let Some(Admission { mut route, alone }) = self.caution.admits(&topic, id, lane) else { return true };
        if row.next_attempt_at().is_some() && !catch.is_on_its_way(lane, &self.window) {
            // What was refused may well be again.
            route = Route::Apart;
        }
        if let Some(commits) = catch.commits.as_mut().filter(|commits| commits.matter()) {
            commits.add(row.writer());
        }
        room.take(weight);
        let batch = match route {
            Route::Common => &mut catch.batch.common,
            Route::Apart => &mut catch.batch.apart,
        };
        if batch.push(&event).is_err() {
            self.caution.withdraw(&topic);
            varlena::out_of_memory(event.size().total());
        }
        catch.tickets.push(Ticket {
            row: row.identity(Some(event.fingerprint())),
            emitted_at: event.emitted_at,
            record_time: event.record_time,
            lane,
            alone,
            is_open: true,
            place: 0,
            weight,
            topic,
        });
        true
    }

    /// Takes a row of which it is known without sending it what becomes of it, and why.
    fn refuse(&mut self, row: &Found<'_>, lane: Option<u64>, (class, error): Reason, catch: &mut Catch) {
        self.lanes.hold_back(lane, row.id());
        let outcome = Outcome::Failed { failure: Failure::Unsendable, class, error };
        catch.unsendable.push(Report { id: row.id(), outcome });
        catch.tickets.push(Ticket {
            row: row.identity(None),
            emitted_at: row.emitted_at(),
            record_time: row.emitted_at(),
            lane,
            alone: true,
            // No broker has to answer.
            is_open: false,
            place: 0,
            weight: event::weight(Size::default()),
            topic: self.shared_topic(&row.topic()),
        });
    }

    /// What was read has not been handed over, and is to be read again.
    fn withdraw(&mut self, tickets: &[Ticket]) {
        self.look = true;
        let open = tickets.iter().filter(|ticket| ticket.is_open);
        open.for_each(|ticket| self.caution.withdraw(&ticket.topic));
    }

    /// The lane of a topic and key. Should two share a number, they wait for each other, no more.
    fn lane(&self, topic: &str, key: &[u8]) -> u64 {
        self.topics.hasher().hash_one((topic, key))
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
    pub(super) fn put_back(&mut self, catch: &Catch) {
        if let Some(first) = catch.tickets.first() {
            self.floor.rewind(first.row.id - 1);
            self.withdraw(&catch.tickets);
        }
    }

    pub(super) fn hand_over(&mut self, catch: Catch) {
        let Catch { batch, tickets, unsendable, .. } = catch;
        let Some(first) = tickets.first().map(|ticket| ticket.row.id) else { return };
        self.last_batch = batch.common.extent();
        match self.publisher.as_ref().map(|publisher| publisher.publish(batch)) {
            Some(true) => {
                tickets.into_iter().for_each(|ticket| self.window.add(ticket));
                self.reports.extend(unsendable);
            }
            Some(false) => {
                self.floor.rewind(first - 1);
                self.withdraw(&tickets);
            }
            None => {}
        }
    }
}
