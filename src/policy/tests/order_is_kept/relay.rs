//! The relay of the small world. Its events in flight and its reader are the real ones; the table is simulated.

use std::collections::{BTreeMap, HashSet};

use event_outbox_policy::delivery::in_flight::{By, Candidate, InFlight, Settled, Verdict};
use event_outbox_policy::delivery::lanes::Micros;
use event_outbox_policy::delivery::topic_ramp::{Admission, Route};
use event_outbox_policy::delivery::window::{InFlightEvent, Limits as Room, Taken};
use event_outbox_policy::reading::floor::Horizon;
use event_outbox_policy::reading::reader::{Pass, Range, Reader, Table, Visited};
use event_outbox_policy::reading::reread::Reread;
use proptest::prelude::*;

use crate::world::Event;

type Rows = BTreeMap<i64, Event>;
type Tested = Result<(), TestCaseError>;

/// The flaw of this world's relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    None,
    /// It sends each event as if it had no key.
    NoLanes,
    /// Turns and lookups read rows that the reader of new rows has not seen.
    NoBound,
    /// It looks up a due event although rows of its topic before it remain to be read.
    LooksUpAhead,
    /// The same flaw, but only while too many of the topic's events wait.
    LooksUpIfSaturated,
    /// Events that come back are not read again.
    ForgetsWhatCameBack,
}

/// The limits of the relay.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub lanes: usize,
    pub window: usize,
    /// The number of rows that a reader reads in a pass.
    pub pass: usize,
}

/// The route of an event; `None` if it was refused without being sent.
pub type Way = Option<Route>;

/// The outcome of the events that a pass has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    HandedOver,
    /// The transaction failed.
    Failed,
    /// The producer has no room.
    NotTaken,
    /// The events wait for standbys.
    Waits,
}

pub struct Relay {
    flaw: Flaw,
    limits: Limits,
    pub in_flight: InFlight<Way>,
    reader: Reader,
    /// Answered events whose rows are locked, and whether each was refused.
    pub locked: BTreeMap<i64, bool>,
    /// The events that were read and wait for standbys.
    pub unreplicated: Option<Taken<Way>>,
}

impl Relay {
    pub fn new(flaw: Flaw, limits: Limits) -> Self {
        Self {
            flaw,
            limits,
            in_flight: InFlight::new(limits.lanes, 100, true),
            reader: Reader::default(),
            locked: BTreeMap::new(),
            unreplicated: None,
        }
    }

    pub fn has_reason_to_read(&self) -> bool {
        self.reader.has_reason(&self.in_flight)
    }

    pub fn look(&mut self) {
        self.reader.note_new_rows();
    }

    pub fn sweep_all(&mut self) {
        self.reader.sweep_all();
        self.in_flight.recheck();
    }

    pub fn end_waits(&mut self) {
        self.in_flight.end_waits();
        self.reader.sweep_all();
    }

    pub fn pass(&mut self, rows: &Rows, seen: Horizon, now: Micros, then: Then) -> Tested {
        if self.unreplicated.is_some() {
            return Ok(());
        }
        if self.in_flight.due(now) {
            self.reader.note_new_rows();
        }
        self.reader.begin();
        let mut taken = Taken::with_capacity(0);
        let room = self.in_flight.room(Room { events: self.limits.window, bytes: usize::MAX });
        let mut table = Source { flaw: self.flaw, rows, locked: &self.locked, found: Ok(()) };
        let mut pass = Pass { now, room, taken: &mut taken };
        let limit = self.limits.pass;
        let reached = self.reader.read(seen, limit, &mut self.in_flight, &mut pass, &mut table);
        table.found?;
        if then == Then::Failed {
            self.reader.abandon(&mut self.in_flight);
        } else {
            self.reader.end(reached);
        }
        match then {
            Then::HandedOver => self.in_flight.hand_over(taken),
            Then::Failed | Then::NotTaken => self.withdraw(&taken),
            Then::Waits => self.unreplicated = Some(taken),
        }
        Ok(())
    }

    pub fn replicated(&mut self) {
        if let Some(taken) = self.unreplicated.take() {
            self.in_flight.hand_over(taken);
        }
    }

    pub fn give_up_unreplicated(&mut self) {
        if let Some(taken) = self.unreplicated.take() {
            self.withdraw(&taken);
        }
    }

    fn withdraw(&mut self, taken: &Taken<Way>) {
        let again = self.in_flight.withdraw(taken);
        self.again(again);
    }

    pub fn settled(&mut self, id: i64, what: Settled) {
        self.locked.remove(&id);
        let again = self.in_flight.settled(id, what);
        self.again(again);
    }

    /// Kafka has answered for an event whose row is locked.
    pub fn lock(&mut self, id: i64, refused: bool) {
        self.locked.insert(id, refused);
        let again = self.in_flight.answered(id, refused);
        self.again(again);
    }

    pub fn quarantine(&mut self, topic: &str) {
        self.give_up_unreplicated();
        self.in_flight.quarantine(&topic.into());
    }

    pub fn producer_lost(&mut self) {
        self.unreplicated = None;
        let kept: HashSet<i64> = self.locked.keys().copied().collect();
        let again = self.in_flight.producer_lost(&kept, true);
        self.again(again);
    }

    fn again(&mut self, what: Reread) {
        if self.flaw != Flaw::ForgetsWhatCameBack {
            self.reader.reread(what);
        }
    }
}

/// The table, and the judge of the events that are taken from it.
struct Source<'a> {
    flaw: Flaw,
    rows: &'a Rows,
    locked: &'a BTreeMap<i64, bool>,
    found: Tested,
}

impl Table<Way> for Source<'_> {
    fn read(
        &mut self,
        in_flight: &mut InFlight<Way>,
        pass: &mut Pass<'_, Way>,
        by: By,
        range: Range,
    ) -> Visited {
        let bound = if self.flaw == Flaw::NoBound { i64::MAX } else { range.bound };
        let mut visited = Visited::new(range);
        visited.is_all = true;
        for (&id, event) in self.rows.range(range.after + 1..) {
            if id > bound {
                break;
            }
            if visited.rows == range.limit {
                visited.is_all = false;
                break;
            }
            visited.rows += 1;
            let verdict = self.consider(id, event, by, in_flight, pass);
            if !visited.goes_on(by, id, verdict) {
                visited.is_all = false;
                break;
            }
        }
        if by == By::New {
            self.look_up_ahead(if visited.is_all { i64::MAX } else { visited.last_id }, in_flight, pass);
        }
        visited
    }

    fn look_up(
        &mut self,
        in_flight: &mut InFlight<Way>,
        pass: &mut Pass<'_, Way>,
        id: i64,
    ) -> Option<Verdict> {
        let rows = self.rows;
        rows.get(&id).map(|event| self.consider(id, event, By::Due, in_flight, pass))
    }
}

impl Source<'_> {
    /// The flaw of looking up due events ahead of others that must precede them.
    fn look_up_ahead(&mut self, bound: i64, in_flight: &mut InFlight<Way>, pass: &mut Pass<'_, Way>) {
        if !matches!(self.flaw, Flaw::LooksUpAhead | Flaw::LooksUpIfSaturated) {
            return;
        }
        pass.taken.remember_ids();
        for (id, topic) in in_flight.lanes().first_due(usize::MAX) {
            let is_chosen =
                self.flaw == Flaw::LooksUpAhead || in_flight.lanes().is_saturated(topic, i64::MAX);
            let has_key = self.rows.get(&id).is_some_and(|event| event.lane.is_some());
            if is_chosen && has_key && id <= bound {
                self.look_up(in_flight, pass, id);
            }
        }
    }

    fn consider(
        &mut self,
        id: i64,
        event: &Event,
        by: By,
        in_flight: &mut InFlight<Way>,
        pass: &mut Pass<'_, Way>,
    ) -> Verdict {
        let topic = in_flight.topic(event.topic);
        if matches!(by, By::Turn(turn) if turn != topic) || in_flight.get(id).is_some() || pass.taken.has(id)
        {
            return Verdict::Next;
        }
        let candidate = Candidate { id, topic, not_before: event.not_before, is_known: true };
        let lane = if self.flaw == Flaw::NoLanes { None } else { event.lane };
        let offer = match in_flight.offer(candidate, by, pass.now, |_| lane) {
            Ok(offer) => offer,
            Err(verdict) => return verdict,
        };
        let mut entry = InFlightEvent {
            id,
            row: None,
            topic: event.topic.into(),
            emitted_at: 0,
            record_time: 0,
            lane,
            sole_in_flight: true,
            is_row_gone: false,
            is_open: !event.is_unsendable,
            place: 0,
            weight: 1,
        };
        if event.is_unsendable {
            in_flight.refuse(offer);
        } else if !pass.room.fits(1) {
            return in_flight.put_off(offer);
        } else {
            match in_flight.admit(offer, &entry.topic, pass.taken) {
                Ok(Admission { route, sole_in_flight }) => {
                    (entry.row, entry.sole_in_flight) = (Some(route), sole_in_flight);
                }
                Err(verdict) => return verdict,
            }
            pass.room.take(1);
        }
        if self.found.is_ok() {
            self.found = self.judge(&entry, event, in_flight, pass);
        }
        pass.taken.add(entry);
        Verdict::Next
    }

    /// Checks the guarantee: an event is sent only when its wait is over, and when all earlier events of its key that still
    /// exist are published, or on the same route.
    fn judge(
        &self,
        entry: &InFlightEvent<Way>,
        event: &Event,
        in_flight: &InFlight<Way>,
        pass: &Pass<'_, Way>,
    ) -> Tested {
        prop_assert!(event.not_before <= Some(pass.now), "{} is waiting", entry.id);
        if event.lane.is_none() || entry.row.is_none() {
            return Ok(());
        }
        let goes_before = |id: &i64| {
            let taken = || pass.taken.events().iter().find(|other| other.id == *id);
            let way = in_flight.get(*id).or_else(taken).and_then(|other| other.row);
            way.is_some_and(|way| match self.locked.get(id) {
                Some(refused) => !refused,
                None => Some(way) == entry.row,
            })
        };
        for (other, _) in self.rows.range(..entry.id).filter(|(_, other)| other.lane == event.lane) {
            prop_assert!(goes_before(other), "{} goes before {}", entry.id, other);
        }
        Ok(())
    }
}
