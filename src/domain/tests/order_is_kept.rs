//! The lanes in a small world of events, refusals, hand-made deletions and restarts: a refused event holds
//! back its own key until it is delivered or dead, and nothing is forgotten.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};

use event_outbox_domain::order::{Lane, Lanes, Micros};
use event_outbox_domain::sweep::Reached;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRunner};

const MAX_ATTEMPTS: u32 = 3;

#[derive(Debug, Clone, Copy)]
enum Turn {
    Emit(Lane),
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
    lane: Lane,
    attempts: u32,
    not_before: Option<Micros>,
}

struct World {
    heeds_lanes: bool,
    limit: usize,
    window: usize,
    now: Micros,
    last_id: i64,
    table: BTreeMap<i64, Event>,
    in_flight: BTreeSet<i64>,
    lanes: Lanes,
    /// The sweep: rows up to here were dealt with.
    swept: i64,
    /// What was in flight behind an event when it was refused, and so may overtake it.
    excused: BTreeSet<i64>,
    delivered: BTreeSet<i64>,
}

impl World {
    fn new(heeds_lanes: bool, limit: usize, window: usize) -> Self {
        Self {
            heeds_lanes,
            limit,
            window,
            now: 0,
            last_id: 0,
            table: BTreeMap::new(),
            in_flight: BTreeSet::new(),
            lanes: Lanes::new(limit),
            swept: 0,
            excused: BTreeSet::new(),
            delivered: BTreeSet::new(),
        }
    }

    fn play(&mut self, turn: Turn) -> Result<(), TestCaseError> {
        match turn {
            Turn::Emit(lane) => {
                self.last_id += 1;
                self.table.insert(self.last_id, Event { lane, ..Event::default() });
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
                id.and_then(|id| self.table.get_mut(&id)).into_iter().for_each(|e| e.not_before = Some(now));
            }
            Turn::Restart => {
                self.lanes = Lanes::new(self.limit);
                self.in_flight.clear();
                self.swept = 0;
            }
            Turn::Fatal => {
                self.lanes.resend();
                self.rewind(self.in_flight.first().map(|id| id - 1));
                self.in_flight.clear();
            }
        }
        Ok(())
    }

    fn pick(&self, pick: usize, which: impl Fn(&Self, i64) -> bool) -> Option<i64> {
        let those: Vec<i64> = self.table.keys().copied().filter(|&id| which(self, id)).collect();
        those.get(pick.checked_rem(those.len())?).copied()
    }

    fn rewind(&mut self, to: Option<i64>) {
        self.swept = self.swept.min(to.unwrap_or(i64::MAX));
    }

    fn pass(&mut self) -> Result<(), TestCaseError> {
        let to = self.lanes.due(self.now);
        self.rewind(to);
        let rows: Vec<(i64, Event)> =
            self.table.range(self.swept + 1..).map(|(&id, &event)| (id, event)).collect();
        for (id, event) in rows {
            if !self.in_flight.contains(&id) {
                if self.in_flight.len() >= self.window || self.lanes.full() {
                    let to = self.lanes.swept(Reached::Id(self.swept));
                    self.rewind(to);
                    return Ok(());
                }
                let admitted = self.lanes.admits(event.lane, id, event.not_before, self.now);
                if admitted || !self.heeds_lanes {
                    self.hand_out(id, event)?;
                }
            }
            self.swept = id;
        }
        let to = self.lanes.swept(Reached::End);
        self.rewind(to);
        Ok(())
    }

    /// The promise: nobody is handed out who is waiting, or behind one that was refused and is still there.
    fn hand_out(&mut self, id: i64, event: Event) -> Result<(), TestCaseError> {
        prop_assert!(event.not_before <= Some(self.now), "{} is waiting", id);
        let refused = |other: &&Event| other.lane.is_some() && other.lane == event.lane && other.attempts > 0;
        let ahead = self.table.range(..id).find(|(_, other)| refused(other));
        prop_assert!(ahead.is_none() || self.excused.contains(&id), "{} overtakes {:?}", id, ahead);
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
            let to = self.lanes.release(event.lane, id);
            self.rewind(to);
        }
    }

    fn refuse(&mut self, pick: usize, wait: Micros) {
        let Some((id, event)) = self.answered(pick) else { return };
        if event.attempts + 1 == MAX_ATTEMPTS {
            self.table.remove(&id);
            let to = self.lanes.release(event.lane, id);
            return self.rewind(to);
        }
        let followers = self.in_flight.range(id..).filter(|other| self.table[other].lane == event.lane);
        self.excused.extend(followers);
        let until = self.now + wait;
        self.table.insert(id, Event { attempts: event.attempts + 1, not_before: Some(until), ..event });
        self.lanes.block(event.lane, id, until);
    }

    /// Time passes and Kafka accepts everything: then nothing may be left.
    fn come_to_rest(&mut self) -> Result<(), TestCaseError> {
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
        Ok(())
    }
}

fn turn() -> impl Strategy<Value = Turn> {
    let lane = prop_oneof![4 => (0..3u64).prop_map(Some), 1 => Just(None)];
    prop_oneof![
        8 => lane.prop_map(Turn::Emit),
        6 => Just(Turn::Pass),
        4 => (0..10usize).prop_map(Turn::Deliver),
        4 => (0..10usize, 1..50i64).prop_map(|(pick, wait)| Turn::Refuse(pick, wait)),
        3 => (1..30i64).prop_map(Turn::Time),
        1 => (0..20usize).prop_map(Turn::Delete),
        1 => (0..20usize).prop_map(Turn::Hasten),
        1 => prop_oneof![Just(Turn::Restart), Just(Turn::Fatal)],
    ]
}

type Failure = TestError<(Vec<Turn>, usize, usize)>;

fn check(heeds_lanes: bool) -> Result<(), Failure> {
    let config = Config {
        cases: 3000,
        failure_persistence: None,
        rng_algorithm: RngAlgorithm::XorShift,
        ..Config::default()
    };
    let turns = (prop::collection::vec(turn(), 1..150), 1..5usize, 1..8usize);
    TestRunner::new(config).run(&turns, |(turns, limit, window)| {
        let mut world = World::new(heeds_lanes, limit, window);
        turns.into_iter().try_for_each(|turn| world.play(turn))?;
        world.come_to_rest()
    })
}

#[test]
fn a_refused_event_holds_back_its_key_and_nothing_is_forgotten() {
    if let Err(error) = check(true) {
        panic!("{error}");
    }
}

#[test]
fn without_lanes_the_order_is_lost() {
    assert!(matches!(check(false), Err(TestError::Fail(..))));
}
