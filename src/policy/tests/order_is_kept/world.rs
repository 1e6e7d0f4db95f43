//! The small world: a table of events, transactions that commit late, Kafka's answers, and manual changes.

use std::collections::BTreeMap;

use event_outbox_policy::delivery::in_flight::Settled;
use event_outbox_policy::delivery::lanes::{Lane, Micros};
use event_outbox_policy::reading::floor::Horizon;
use proptest::prelude::*;

use crate::relay::{Flaw, Limits, Relay, Then};

const MAX_ATTEMPTS: u32 = 3;

pub type Topic = &'static str;

pub const TOPICS: [Topic; 2] = ["a", "b"];

#[derive(Debug, Clone)]
pub enum Turn {
    Emit(Topic, Lane, bool),
    /// The same, in a transaction that commits later.
    Write(Topic, Lane, bool),
    Commit(usize),
    /// A row that the floor does not know, because logical replication inserts it.
    Bypass(Topic),
    Pass(Then),
    /// The standbys have received the rows that were read.
    Replicated,
    /// Kafka answers for some events in flight, for the first of each lane. They are settled together.
    Answer(Vec<(usize, Answer)>),
    /// The row of an answered event is locked, so it is settled later.
    Lock(usize, Option<Micros>),
    Unlock,
    Time(Micros),
    /// A user deletes a waiting event, or makes it due.
    Delete(usize),
    Hasten(usize),
    FullSweep,
    /// No delivery report of a topic arrives.
    Stall(Topic),
    Restart,
    /// The producer is replaced, and the outcome of the events in flight is unknown.
    ProducerLost,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Delivered,
    /// The event was delivered, and its row was changed meanwhile.
    Changed,
    Refused(Micros),
    /// The event came back through no fault of its own.
    Outage,
    /// Its batch was refused.
    Suspect,
    /// Its producer has stopped.
    Stopped,
}

impl Answer {
    /// Its place in the order of settlement.
    fn place(self) -> usize {
        match self {
            Self::Delivered => 0,
            Self::Changed => 1,
            Self::Refused(_) => 2,
            Self::Outage => 3,
            Self::Suspect => 4,
            Self::Stopped => 5,
        }
    }
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Event {
    pub topic: Topic,
    pub lane: Lane,
    pub not_before: Option<Micros>,
    /// The event is refused without being sent.
    pub is_unsendable: bool,
    attempts: u32,
    bypassed: bool,
}

pub struct World {
    flaw: Flaw,
    limits: Limits,
    pub now: Micros,
    pub last_id: i64,
    /// Rows that are not committed yet.
    written: BTreeMap<i64, Event>,
    pub table: BTreeMap<i64, Event>,
    pub relay: Relay,
    pub max_attempts: u32,
    /// Answered events, each with the time of its next attempt if it was refused.
    locked: Vec<(i64, Option<Micros>)>,
}

impl World {
    pub fn new(flaw: Flaw, limits: Limits) -> Self {
        Self {
            flaw,
            limits,
            now: 0,
            last_id: 0,
            written: BTreeMap::new(),
            table: BTreeMap::new(),
            relay: Relay::new(flaw, limits),
            max_attempts: MAX_ATTEMPTS,
            locked: Vec::new(),
        }
    }

    pub fn play(&mut self, turn: Turn) -> Result<(), TestCaseError> {
        match turn {
            Turn::Emit(topic, lane, bad) => {
                self.write(topic, lane, bad);
                self.commit(self.last_id);
            }
            Turn::Write(topic, lane, bad) => self.write(topic, lane, bad),
            Turn::Commit(pick) => {
                let id = pick.checked_rem(self.written.len()).and_then(|at| self.written.keys().nth(at));
                id.copied().into_iter().for_each(|id| self.commit(id));
            }
            Turn::Bypass(topic) => {
                self.last_id += 1;
                self.table.insert(self.last_id, Event { topic, bypassed: true, ..Event::default() });
            }
            Turn::Pass(then) => self.pass(then)?,
            Turn::Replicated => {
                self.relay.replicated();
            }
            Turn::Answer(picks) => self.answer(&picks),
            Turn::Lock(pick, refused) => {
                if let Some(id) = self.first_of_lane(pick, &[]) {
                    let is_sent = self.relay.in_flight.get(id).is_some_and(|entry| entry.row.is_some());
                    let refused = if is_sent { refused } else { Some(3) };
                    self.relay.lock(id, refused.is_some());
                    self.locked.push((id, refused));
                }
            }
            Turn::Unlock => {
                let locked = std::mem::take(&mut self.locked);
                let settle = |(id, refused): (i64, Option<Micros>)| {
                    (id, refused.map_or(Answer::Delivered, Answer::Refused))
                };
                self.settle(&locked.into_iter().map(settle).collect::<Vec<_>>());
            }
            Turn::Time(passed) => self.now += passed,
            Turn::Delete(pick) => {
                let id = self.pick(pick, |world, id| world.relay.in_flight.get(id).is_none());
                id.and_then(|id| self.table.remove(&id));
            }
            Turn::Hasten(pick) => {
                let now = self.now;
                let id = self.pick(pick, |world, id| world.table[&id].not_before > Some(now));
                if let Some(event) = id.and_then(|id| self.table.get_mut(&id)) {
                    event.not_before = Some(now);
                    self.relay.end_waits();
                }
            }
            Turn::FullSweep => self.relay.sweep_all(),
            Turn::Stall(topic) => self.relay.quarantine(topic),
            Turn::Restart => {
                self.relay = Relay::new(self.flaw, self.limits);
                self.locked.clear();
            }
            Turn::ProducerLost => self.relay.producer_lost(),
        }
        Ok(())
    }

    fn write(&mut self, topic: Topic, lane: Lane, is_unsendable: bool) {
        self.last_id += 1;
        // Each key belongs to one topic.
        let topic = lane.map_or(topic, |lane| TOPICS[lane as usize % TOPICS.len()]);
        self.written.insert(self.last_id, Event { topic, lane, is_unsendable, ..Event::default() });
    }

    /// Earlier transactions of the same lane held a lock, so they have committed before.
    fn commit(&mut self, id: i64) {
        let lane = self.written[&id].lane;
        let before = |pair: &(&i64, &Event)| {
            let (other, event) = (*pair.0, pair.1);
            other == id || lane.is_some() && event.lane == lane && other < id
        };
        let ids: Vec<i64> = self.written.iter().filter(before).map(|(&id, _)| id).collect();
        for id in ids {
            let event = self.written.remove(&id).unwrap();
            self.table.insert(id, event);
        }
        self.relay.look();
    }

    fn pick(&self, pick: usize, which: impl Fn(&Self, i64) -> bool) -> Option<i64> {
        let those: Vec<i64> = self.table.keys().copied().filter(|&id| which(self, id)).collect();
        those.get(pick.checked_rem(those.len())?).copied()
    }

    /// Each event has its own transaction, whose xid is the event's id.
    fn pass(&mut self, then: Then) -> Result<(), TestCaseError> {
        let next_xid = self.last_id as u64 + 1;
        let running = self.written.keys().map(|&id| id as u64).collect();
        let seen = Horizon { last_id: self.last_id, next_xid, snapshot_xmax: next_xid, running };
        self.relay.pass(&self.table, seen, self.now, then)
    }

    /// The first event in flight of a lane, since Kafka answers in the order of a lane.
    fn first_of_lane(&self, pick: usize, but: &[i64]) -> Option<i64> {
        let is_open = |id: &i64| !self.relay.locked.contains_key(id) && !but.contains(id);
        let open: Vec<(i64, Lane)> =
            self.in_flight().filter(|(id, ..)| is_open(id)).map(|(id, _, lane)| (id, lane)).collect();
        let (picked, lane) = *open.get(pick.checked_rem(open.len())?)?;
        let first = |(id, other): &(i64, Lane)| *id == picked || lane.is_some() && *other == lane;
        open.into_iter().find(first).map(|(id, _)| id)
    }

    /// The events in flight in ascending ids, each with its topic and lane.
    fn in_flight(&self) -> impl Iterator<Item = (i64, String, Lane)> {
        let events = self.relay.in_flight.window().iter();
        let all: BTreeMap<i64, (String, Lane)> =
            events.map(|entry| (entry.id, (entry.topic.to_string(), entry.lane))).collect();
        all.into_iter().map(|(id, (topic, lane))| (id, topic, lane))
    }

    fn answer(&mut self, picks: &[(usize, Answer)]) {
        let (mut answered, mut answers) = (Vec::new(), Vec::new());
        for &(pick, answer) in picks {
            if let Some(id) = self.first_of_lane(pick, &answered) {
                answered.push(id);
                let entry = self.relay.in_flight.get(id);
                let answer = match answer {
                    _ if entry.is_some_and(|entry| entry.row.is_none()) => Answer::Refused(3),
                    Answer::Suspect if entry.is_some_and(|entry| entry.sole_in_flight) => Answer::Refused(3),
                    answer => answer,
                };
                answers.push((id, answer));
            }
        }
        self.settle(&answers);
    }

    /// Kafka gives the same answer for all events of a topic in flight.
    pub fn answer_topic(&mut self, topic: Topic, answer: Answer) {
        let ids = self.in_flight().filter(|(_, other, _)| other == topic);
        let answers: Vec<_> = ids.map(|(id, ..)| (id, answer)).collect();
        self.settle(&answers);
    }

    fn settle(&mut self, answers: &[(i64, Answer)]) {
        if answers.is_empty() {
            return;
        }
        let suspect = |id: &i64| answers.contains(&(*id, Answer::Suspect));
        let topics: Vec<String> =
            self.in_flight().filter(|(id, ..)| suspect(id)).map(|(_, topic, _)| topic).collect();
        // The relay settles them in this order.
        let mut settled: Vec<_> = answers.iter().map(|&(id, answer)| (answer.place(), id, answer)).collect();
        settled.sort_by_key(|(place, ..)| *place);
        let refused = settled.partition_point(|(place, ..)| *place <= Answer::Refused(0).place());
        let rest = settled.split_off(refused);
        let has_failed =
            !rest.is_empty() || settled.iter().any(|(_, _, answer)| matches!(answer, Answer::Refused(_)));
        self.close(settled);
        if has_failed {
            self.relay.give_up_unreplicated();
        }
        self.close(rest);
        topics.iter().for_each(|topic| self.relay.quarantine(topic));
    }

    fn close(&mut self, settled: Vec<(usize, i64, Answer)>) {
        for (_, id, answer) in settled {
            let what = self.note(id, answer);
            self.relay.settled(id, what);
        }
    }

    /// Changes the row as its settlement does.
    fn note(&mut self, id: i64, answer: Answer) -> Settled {
        match answer {
            Answer::Delivered => {
                self.table.remove(&id);
                Settled::Delivered
            }
            Answer::Refused(wait) => {
                let Some(event) = self.table.get_mut(&id) else { return Settled::Dead };
                event.attempts += 1;
                if event.attempts < self.max_attempts {
                    event.not_before = Some(self.now + wait);
                    return Settled::RetryAt(self.now + wait);
                }
                self.table.remove(&id);
                Settled::Dead
            }
            Answer::Outage => Settled::Returned(self.now + 5),
            Answer::Suspect => Settled::Suspect(self.now),
            Answer::Changed | Answer::Stopped => Settled::GivenBack,
        }
    }

    /// Time passes and Kafka accepts every event. Then no row may be left.
    pub fn come_to_rest(&mut self) -> Result<(), TestCaseError> {
        while let Some(&id) = self.written.keys().next() {
            self.commit(id);
        }
        self.rest()?;
        let left: Vec<_> = self.table.iter().filter(|(_, event)| !event.bypassed).collect();
        prop_assert!(
            left.is_empty(),
            "left: {:?} beside {:?} {:?}",
            left,
            self.relay.in_flight.lanes(),
            self.relay.in_flight.backlog()
        );
        self.relay.sweep_all();
        self.rest()?;
        prop_assert!(
            self.table.is_empty(),
            "left: {:?} beside {:?}",
            self.table,
            self.relay.in_flight.lanes()
        );
        prop_assert!(
            self.relay.in_flight.lanes().is_empty(),
            "closed for nobody: {:?}",
            self.relay.in_flight.lanes()
        );
        prop_assert!(
            self.relay.in_flight.backlog().is_empty(),
            "behind without a reason: {:?}",
            self.relay.in_flight.backlog()
        );
        Ok(())
    }

    /// Runs passes until the relay has no reason to read.
    fn rest(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..3_000 {
            self.play(Turn::Replicated)?;
            self.play(Turn::Unlock)?;
            let open = self.relay.in_flight.window().len();
            self.answer(&vec![(0, Answer::Delivered); open]);
            if self.relay.in_flight.window().is_empty() && !self.relay.has_reason_to_read() {
                let Some(due) = self.relay.in_flight.lanes().next_due() else { return Ok(()) };
                self.now = self.now.max(due);
            }
            self.pass(Then::HandedOver)?;
        }
        Err(TestCaseError::fail(format!(
            "no rest: {:?} {:?}",
            self.relay.in_flight.lanes(),
            self.relay.in_flight.backlog()
        )))
    }
}
