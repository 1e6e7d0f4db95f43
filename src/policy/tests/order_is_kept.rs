//! The lanes and the topics that are behind in a small world of events, refusals, late commits, hand-made deletions and
//! restarts: a refused event holds back its own key until it is delivered or dead, nothing is forgotten, and a topic that is
//! refused for ever keeps no other waiting.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};

use event_outbox_policy::delivery::lanes::{Freed, Lane, Lanes, Micros};
use event_outbox_policy::reading::backlog::{Backlog, Ended, Topic};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRunner};

const MAX_ATTEMPTS: u32 = 3;

#[derive(Debug, Clone, Copy)]
enum Turn {
    Emit(Topic, Lane),
    /// The same in a transaction that commits later.
    Write(Topic, Lane),
    Commit(usize),
    Pass,
    /// Kafka answers for the first event in flight of a lane: the picked one's.
    Deliver(usize),
    Refuse(usize, Micros),
    Time(Micros),
    /// Somebody deletes a waiting event by hand, or makes it due.
    Delete(usize),
    Hasten(usize),
    Restart,
    /// A new producer: the fate of what is in flight is unknown.
    Fatal,
}

#[derive(Debug, Clone, Copy, Default)]
struct Event {
    topic: Topic,
    lane: Lane,
    attempts: u32,
    not_before: Option<Micros>,
}

/// What is wrong with the relay of this world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    None,
    /// It does not ask the lanes.
    NoLanes,
    /// Turns read rows that the reader of new rows has not seen.
    NoBound,
}

/// How much there may be of everything.
#[derive(Debug, Clone, Copy)]
struct Limits {
    lanes: usize,
    window: usize,
    /// Of a topic in flight.
    of_topic: usize,
    /// Rows that a reader visits in a pass, and a turn.
    pass: usize,
    turn: usize,
}

struct World {
    flaw: Flaw,
    limits: Limits,
    now: Micros,
    last_id: i64,
    /// Not committed yet.
    written: BTreeMap<i64, Event>,
    table: BTreeMap<i64, Event>,
    in_flight: BTreeSet<i64>,
    lanes: Lanes,
    backlog: Backlog,
    /// The lowest id of each topic that was turned away since too many were in flight.
    denied: BTreeMap<Topic, i64>,
    /// The reader of new rows: rows up to here were dealt with.
    read: i64,
    /// What was in flight behind an event when it was refused, and so may overtake it.
    excused: BTreeSet<i64>,
    delivered: BTreeSet<i64>,
}

impl World {
    fn new(flaw: Flaw, limits: Limits) -> Self {
        Self {
            flaw,
            limits,
            now: 0,
            last_id: 0,
            written: BTreeMap::new(),
            table: BTreeMap::new(),
            in_flight: BTreeSet::new(),
            lanes: Lanes::new(limits.lanes),
            backlog: Backlog::new(100),
            denied: BTreeMap::new(),
            read: 0,
            excused: BTreeSet::new(),
            delivered: BTreeSet::new(),
        }
    }

    fn play(&mut self, turn: Turn) -> Result<(), TestCaseError> {
        match turn {
            Turn::Emit(topic, lane) => {
                self.write(topic, lane);
                self.commit(self.last_id);
            }
            Turn::Write(topic, lane) => self.write(topic, lane),
            Turn::Commit(pick) => {
                let id = pick.checked_rem(self.written.len()).and_then(|at| self.written.keys().nth(at));
                id.copied().into_iter().for_each(|id| self.commit(id));
            }
            Turn::Pass => self.pass()?,
            Turn::Deliver(pick) => self.deliver(pick),
            Turn::Refuse(pick, wait) => self.refuse(pick, wait),
            Turn::Time(passed) => self.now += passed,
            Turn::Delete(pick) => {
                let id = self.pick(pick, |world, id| !world.in_flight.contains(&id));
                id.and_then(|id| self.table.remove(&id));
            }
            Turn::Hasten(pick) => {
                let now = self.now;
                let id = self.pick(pick, |world, id| world.table[&id].not_before > Some(now));
                if let Some(event) = id.and_then(|id| self.table.get_mut(&id)) {
                    event.not_before = Some(now);
                    self.lanes.end_waits();
                }
            }
            Turn::Restart => {
                self.lanes = Lanes::new(self.limits.lanes);
                self.backlog = Backlog::new(100);
                self.denied.clear();
                self.in_flight.clear();
                self.read = 0;
            }
            Turn::Fatal => {
                for id in std::mem::take(&mut self.in_flight) {
                    let Event { topic, lane, .. } = self.table[&id];
                    self.lanes.give_back(topic, lane, id);
                }
                self.lanes.resend();
                self.denied.clear();
                self.backlog.allow_all();
                self.read = 0;
            }
        }
        Ok(())
    }

    fn write(&mut self, topic: Topic, lane: Lane) {
        self.last_id += 1;
        // A key has its topic.
        let topic = lane.map_or(topic, |lane| lane % 2);
        self.written.insert(self.last_id, Event { topic, lane, ..Event::default() });
    }

    /// Those of the same lane took a lock, and so have committed before.
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
            // As the floor has it.
            self.read = self.read.min(id - 1);
        }
    }

    fn pick(&self, pick: usize, which: impl Fn(&Self, i64) -> bool) -> Option<i64> {
        let those: Vec<i64> = self.table.keys().copied().filter(|&id| which(self, id)).collect();
        those.get(pick.checked_rem(those.len())?).copied()
    }

    fn freed(&mut self, freed: Option<Freed>) {
        let Some(Freed { topic, behind }) = freed else { return };
        match behind {
            Some(id) => self.backlog.want(topic, id),
            None => self.backlog.let_go(topic, self.lanes.has_closed(topic)),
        }
    }

    fn rows(&self, after: i64, most: usize) -> Vec<(i64, Event)> {
        self.table.range(after + 1..).take(most).map(|(&id, &event)| (id, event)).collect()
    }

    /// As the relay makes it.
    fn pass(&mut self) -> Result<(), TestCaseError> {
        self.lanes.due(self.now);
        let lanes = &self.lanes;
        self.backlog.requeue(|topic| lanes.is_saturated(topic));
        let rows = self.rows(self.read, self.limits.pass);
        let mut cut = rows.len() == self.limits.pass;
        for (id, event) in rows {
            if !self.in_flight.contains(&id) && self.backlog.holds(event.topic) {
                self.backlog.want(event.topic, id);
            } else if !self.consider(id, event)? {
                cut = true;
                break;
            }
            self.read = id;
        }
        let bound = if cut && self.flaw != Flaw::NoBound { self.read } else { i64::MAX };
        self.look_up()?;
        let mut visited = 0;
        while visited < self.limits.pass {
            let Some((topic, after)) = self.backlog.begin_turn() else { break };
            let (ended, rows) = self.turn(topic, after, bound)?;
            self.backlog.end_turn(ended);
            if ended == Ended::CaughtUp {
                self.backlog.let_go(topic, self.lanes.has_closed(topic));
            }
            if matches!(ended, Ended::NoRoom(_)) {
                break;
            }
            visited += rows.max(1);
        }
        Ok(())
    }

    fn look_up(&mut self) -> Result<(), TestCaseError> {
        for (id, topic) in self.lanes.first_due(self.limits.pass) {
            match self.table.get(&id).copied() {
                Some(event) => {
                    if !self.consider(id, event)? {
                        self.backlog.want(topic, id);
                        break;
                    }
                    self.lanes.is_in_flight(id);
                }
                None => {
                    let freed = self.lanes.vanished(id);
                    self.freed(freed);
                }
            }
        }
        Ok(())
    }

    fn turn(&mut self, topic: Topic, after: i64, bound: i64) -> Result<(Ended, usize), TestCaseError> {
        let mut last = after;
        if self.lanes.is_saturated(topic) {
            return Ok((Ended::Saturated(last), 0));
        }
        let rows = self.rows(after, self.limits.turn);
        let count = rows.len();
        for (id, event) in rows {
            if id > bound {
                return Ok((Ended::CaughtUp, count));
            }
            if event.topic == topic {
                if !self.in_flight.contains(&id)
                    && self.lanes.is_saturated(topic)
                    && !self.lanes.is_held_by(event.lane, id)
                {
                    return Ok((Ended::Saturated(last), count));
                }
                if !self.consider(id, event)? {
                    return Ok((Ended::NoRoom(last), count));
                }
            }
            last = id;
        }
        Ok((if count < self.limits.turn { Ended::CaughtUp } else { Ended::UsedUp(last) }, count))
    }

    /// `false` if there is no room.
    fn consider(&mut self, id: i64, event: Event) -> Result<bool, TestCaseError> {
        if self.in_flight.contains(&id) {
            return Ok(true);
        }
        let Event { topic, lane, not_before, .. } = event;
        if not_before.is_some() {
            self.backlog.leave_behind(topic);
        }
        let admitted = self.lanes.try_admit(topic, lane, id, not_before, self.now);
        if !admitted && self.flaw != Flaw::NoLanes {
            return Ok(true);
        }
        if self.in_flight.len() >= self.limits.window {
            self.put_off(id, event);
            return Ok(false);
        }
        let of_topic = self.in_flight.iter().filter(|id| self.table[id].topic == topic).count();
        if of_topic >= self.limits.of_topic || self.denied.contains_key(&topic) {
            self.backlog.deny(topic);
            let lowest = self.denied.entry(topic).or_insert(id);
            *lowest = id.min(*lowest);
            self.put_off(id, event);
            return Ok(true);
        }
        self.hand_out(id, event)?;
        Ok(true)
    }

    /// It was let through in vain.
    fn put_off(&mut self, id: i64, Event { topic, lane, .. }: Event) {
        if self.lanes.is_held_by(lane, id) {
            self.lanes.block(topic, lane, id, self.now + 1);
        }
    }

    /// An event of this topic is no longer in flight.
    fn settled(&mut self, topic: Topic) {
        if self.in_flight.iter().any(|id| self.table[id].topic == topic) {
            return;
        }
        if let Some(id) = self.denied.remove(&topic) {
            self.backlog.allow(topic, id);
        }
        self.backlog.let_go(topic, self.lanes.has_closed(topic));
    }

    /// The promise: nobody is handed out who is waiting, or behind one that was refused and is still there.
    fn hand_out(&mut self, id: i64, event: Event) -> Result<(), TestCaseError> {
        prop_assert!(event.not_before <= Some(self.now), "{} is waiting", id);
        let lane = event.lane;
        let refused = |other: &&Event| other.lane.is_some() && other.lane == event.lane && other.attempts > 0;
        let ahead = self.table.range(..id).find(|(_, other)| refused(other));
        prop_assert!(ahead.is_none() || self.excused.contains(&id), "{} overtakes {:?}", id, ahead);
        let unsent = |(other, event): &(&i64, &Event)| {
            event.lane.is_some() && event.lane == lane && !self.in_flight.contains(*other)
        };
        let ahead = self.table.range(..id).find(unsent);
        prop_assert!(ahead.is_none() || self.excused.contains(&id), "{} goes before {:?}", id, ahead);
        self.in_flight.insert(id);
        Ok(())
    }

    /// Kafka answers in the order of a lane.
    fn answered(&mut self, pick: usize) -> Option<(i64, Event)> {
        let picked = self.pick(pick, |world, id| world.in_flight.contains(&id))?;
        let lane = self.table[&picked].lane;
        let first = |&&id: &&i64| id == picked || lane.is_some() && self.table[&id].lane == lane;
        let id = *self.in_flight.iter().find(first).unwrap();
        self.in_flight.remove(&id);
        Some((id, self.table[&id]))
    }

    fn deliver(&mut self, pick: usize) {
        if let Some((id, event)) = self.answered(pick) {
            self.table.remove(&id);
            self.delivered.insert(id);
            let freed = self.lanes.release(event.lane, id);
            self.freed(freed);
            self.settled(event.topic);
        }
    }

    fn refuse(&mut self, pick: usize, wait: Micros) {
        let Some((id, event)) = self.answered(pick) else { return };
        if event.attempts + 1 == MAX_ATTEMPTS {
            self.table.remove(&id);
            let freed = self.lanes.release(event.lane, id);
            self.freed(freed);
            return self.settled(event.topic);
        }
        let followers = self.in_flight.range(id..).filter(|other| self.table[other].lane == event.lane);
        self.excused.extend(followers);
        let until = self.now + wait;
        self.table.insert(id, Event { attempts: event.attempts + 1, not_before: Some(until), ..event });
        self.backlog.leave_behind(event.topic);
        self.lanes.block(event.topic, event.lane, id, until);
        self.settled(event.topic);
    }

    /// Time passes and Kafka accepts everything: then nothing may be left.
    fn come_to_rest(&mut self) -> Result<(), TestCaseError> {
        while let Some(&id) = self.written.keys().next() {
            self.commit(id);
        }
        for _ in 0..10_000 {
            if self.table.is_empty() && self.lanes.is_empty() {
                break;
            }
            self.now = self.now.max(self.lanes.next_due().unwrap_or(self.now));
            self.pass()?;
            (0..self.in_flight.len()).for_each(|_| self.deliver(0));
        }
        prop_assert!(self.table.is_empty(), "left: {:?} beside {:?}", self.table, self.lanes);
        prop_assert!(self.lanes.is_empty(), "closed for nobody: {:?}", self.lanes);
        (0..100).try_for_each(|_| self.pass())?;
        prop_assert!(self.backlog.is_empty(), "behind without a reason: {:?}", self.backlog);
        Ok(())
    }
}

fn turn() -> impl Strategy<Value = Turn> {
    let lane = prop_oneof![4 => (0..3u64).prop_map(Some), 1 => Just(None)];
    prop_oneof![
        6 => (0..2u64, lane.clone()).prop_map(|(topic, lane)| Turn::Emit(topic, lane)),
        3 => (0..2u64, lane).prop_map(|(topic, lane)| Turn::Write(topic, lane)),
        3 => (0..10usize).prop_map(Turn::Commit),
        6 => Just(Turn::Pass),
        4 => (0..10usize).prop_map(Turn::Deliver),
        4 => (0..10usize, 1..50i64).prop_map(|(pick, wait)| Turn::Refuse(pick, wait)),
        3 => (1..30i64).prop_map(Turn::Time),
        1 => (0..20usize).prop_map(Turn::Delete),
        1 => (0..20usize).prop_map(Turn::Hasten),
        1 => prop_oneof![Just(Turn::Restart), Just(Turn::Fatal)],
    ]
}

fn limits() -> impl Strategy<Value = Limits> {
    (1..9usize, 1..8usize, 1..5usize, 1..6usize, 1..5usize)
        .prop_map(|(lanes, window, of_topic, pass, turn)| Limits { lanes, window, of_topic, pass, turn })
}

type Failure = TestError<(Vec<Turn>, Limits)>;

fn check(flaw: Flaw) -> Result<(), Failure> {
    let config = Config {
        cases: 1000,
        max_shrink_iters: 2000,
        failure_persistence: None,
        rng_algorithm: RngAlgorithm::XorShift,
        ..Config::default()
    };
    let turns = (prop::collection::vec(turn(), 1..150), limits());
    TestRunner::new(config).run(&turns, |(turns, limits)| {
        let mut world = World::new(flaw, limits);
        turns.into_iter().try_for_each(|turn| world.play(turn))?;
        world.come_to_rest()
    })
}

#[test]
fn a_refused_event_holds_back_its_key_and_nothing_is_forgotten() {
    if let Err(error) = check(Flaw::None) {
        panic!("{error}");
    }
}

#[test]
fn what_is_wrong_is_found() {
    for flaw in [Flaw::NoLanes, Flaw::NoBound] {
        assert!(matches!(check(flaw), Err(TestError::Fail(..))), "{flaw:?}");
    }
}

/// One topic has 2,000 events that are refused for ever, others come later: each is handed out within two passes.
#[test]
fn a_topic_that_is_refused_keeps_no_other_waiting() {
    let limits = Limits { lanes: 400, window: 50, of_topic: 16, pass: 20, turn: 20 };
    let mut world = World::new(Flaw::None, limits);
    for _ in 0..2_000 {
        world.play(Turn::Emit(0, None)).unwrap();
    }
    for round in 0..300 {
        world.play(Turn::Emit(1, None)).unwrap();
        let id = world.last_id;
        for _ in 0..2 {
            world.play(Turn::Pass).unwrap();
            let refused: Vec<i64> =
                world.in_flight.iter().copied().filter(|id| world.table[id].topic == 0).collect();
            for bad in refused {
                let event = world.table[&bad];
                world.in_flight.remove(&bad);
                world.table.insert(bad, Event { attempts: 1, not_before: Some(world.now + 5), ..event });
                world.backlog.leave_behind(0);
                world.lanes.block(0, None, bad, world.now + 5);
                world.settled(0);
            }
            world.now += 1;
        }
        // The first has the whole table before it, once.
        assert!(world.in_flight.remove(&id) || round < 60, "round {round}: {id} has not been seen");
        world.table.retain(|other, event| event.topic == 0 || *other > id);
    }
}
