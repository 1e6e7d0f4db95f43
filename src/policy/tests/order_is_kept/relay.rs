//! The relay of the small world: the real lanes, backlog, ramp and floor, put together as the relay does it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use event_outbox_policy::delivery::lanes::{Freed, Lane, Lanes, Micros};
use event_outbox_policy::delivery::topic_ramp::{Admission, End, Route, TopicRamp};
use event_outbox_policy::reading::backlog::{Backlog, Ended, Topic};
use event_outbox_policy::reading::floor::{Floor, Horizon, Reached};
use proptest::prelude::*;

use crate::world::{Answer, Event};

type Table = BTreeMap<i64, Event>;
type Tested<T> = Result<T, TestCaseError>;

/// What is wrong with the relay of this world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    None,
    /// It does not ask the lanes.
    NoLanes,
    /// Turns read rows that the reader of new rows has not seen.
    NoBound,
    /// It looks up a due event though rows of its topic before it remain to be read.
    LooksUpAhead,
    /// The same, only while no more of the topic may be in flight.
    LooksUpIfDenied,
    /// The same, only while too many of the topic's events wait.
    LooksUpIfSaturated,
    /// It reads what came back again, and does not await it.
    DoesNotAwait,
}

/// How much there may be of everything.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub lanes: usize,
    pub window: usize,
    /// Rows that a reader visits in a pass, and a turn.
    pub pass: usize,
    pub turn: usize,
}

#[derive(Debug, Clone, Copy)]
pub struct Ticket {
    pub id: i64,
    topic: Topic,
    pub lane: Lane,
    pub route: Route,
    pub alone: bool,
    is_open: bool,
    /// It was refused, or not sent at all.
    pub is_refused: bool,
    /// Its answer is there, and cannot be settled yet.
    pub is_held: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reader {
    New,
    Due,
    Turn(Topic),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Next,
    NoRoom,
    Denied { for_all: bool },
    Saturated,
}

struct Pass<'a> {
    table: &'a Table,
    now: Micros,
    room: usize,
    reserved: usize,
    bound: i64,
    taken: Vec<Ticket>,
}

/// What becomes of what a pass has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    HandedOver,
    /// The transaction failed.
    Failed,
    /// The producer has no room.
    NotTaken,
    /// It waits for standbys.
    Waits,
}

pub struct Relay {
    flaw: Flaw,
    limits: Limits,
    pub window: BTreeMap<i64, Ticket>,
    pub lanes: Lanes,
    pub backlog: Backlog,
    ramp: TopicRamp,
    /// Topics of which no more may be in flight: for the flaw that looks at it.
    denied: BTreeSet<Topic>,
    floor: Floor,
    net: Option<i64>,
    pub look: bool,
    /// What was read and waits for standbys.
    pub unreplicated: Option<Vec<Ticket>>,
}

fn name(topic: Topic) -> Arc<str> {
    topic.to_string().into()
}

impl Relay {
    pub fn new(flaw: Flaw, limits: Limits) -> Self {
        Self {
            flaw,
            limits,
            window: BTreeMap::new(),
            lanes: Lanes::new(limits.lanes),
            backlog: Backlog::new(100),
            ramp: TopicRamp::new(true),
            denied: BTreeSet::new(),
            floor: Floor::new(),
            net: None,
            look: true,
            unreplicated: None,
        }
    }

    fn has_old(&self) -> bool {
        self.backlog.has_turns() || self.lanes.has_due() || self.net.is_some()
    }

    pub fn has_reason_to_read(&self) -> bool {
        self.look || self.floor.unfinished() || self.has_old()
    }

    pub fn sweep_all(&mut self) {
        self.net = Some(0);
        let window = &self.window;
        self.lanes.recheck(|id| window.contains_key(&id));
    }

    pub fn reread(&mut self) {
        self.lanes.end_waits();
        self.net = Some(0);
    }

    pub fn pass(&mut self, table: &Table, seen: Horizon, now: Micros, then: Then) -> Tested<()> {
        if self.unreplicated.is_some() {
            return Ok(());
        }
        self.look = self.lanes.due(now);
        let after = self.floor.begin(seen).after;
        let room = self.limits.window.saturating_sub(self.window.len());
        let mut pass = Pass { table, now, room, reserved: 0, bound: i64::MAX, taken: Vec::new() };
        let reached = self.read_all(after, &mut pass)?;
        let taken = pass.taken;
        if then == Then::Failed {
            self.floor.abandon();
            self.backlog.abandon();
        } else {
            self.floor.end(reached);
        }
        match then {
            Then::HandedOver => self.hand_over(taken),
            Then::Failed | Then::NotTaken => self.withdraw(&taken),
            Then::Waits => self.unreplicated = Some(taken),
        }
        Ok(())
    }

    pub fn hand_over(&mut self, taken: Vec<Ticket>) {
        self.window.extend(taken.into_iter().map(|ticket| (ticket.id, ticket)));
    }

    fn read_all(&mut self, after: i64, pass: &mut Pass<'_>) -> Tested<Reached> {
        let lanes = &self.lanes;
        self.backlog.requeue(|topic, id| lanes.is_saturated(topic, id));
        let old = self.has_old();
        if old {
            pass.reserved = pass.room / 4;
        }
        let reached = self.read_new(after, pass)?;
        if old || self.has_old() {
            pass.reserved = 0;
            if let Reached::Id(id) = reached
                && self.flaw != Flaw::NoBound
            {
                pass.bound = id;
            }
            self.look_up_due(pass)?;
            self.mend_net(pass)?;
            self.take_turns(pass)?;
        }
        Ok(reached)
    }

    fn read_new(&mut self, after: i64, pass: &mut Pass<'_>) -> Tested<Reached> {
        let mut last_id = after;
        let rows = rows(pass.table, after, self.limits.pass);
        let full = rows.len() == self.limits.pass;
        for (id, event) in rows {
            if self.consider(id, event, Reader::New, pass)? == Verdict::NoRoom {
                return Ok(Reached::Id(last_id));
            }
            last_id = id;
        }
        Ok(if full { Reached::Id(last_id) } else { Reached::End })
    }

    fn look_up_due(&mut self, pass: &mut Pass<'_>) -> Tested<()> {
        for (id, topic) in self.lanes.first_due(self.limits.pass) {
            if id > pass.bound {
                continue;
            }
            let is_ahead = match self.flaw {
                Flaw::LooksUpAhead => true,
                Flaw::LooksUpIfDenied => self.denied.contains(&topic),
                Flaw::LooksUpIfSaturated => self.lanes.is_saturated(topic, i64::MAX),
                _ => false,
            };
            if self.backlog.reads_before(topic, id) && !is_ahead {
                self.lanes.leave_to_turn(id);
                continue;
            }
            match pass.table.get(&id).copied() {
                Some(event) if self.consider(id, event, Reader::Due, pass)? == Verdict::NoRoom => {
                    self.backlog.want(topic, id);
                    return Ok(());
                }
                Some(_) => self.lanes.is_in_flight(id),
                None => {
                    let freed = self.lanes.vanished(id);
                    self.freed(freed);
                }
            }
        }
        Ok(())
    }

    fn mend_net(&mut self, pass: &mut Pass<'_>) -> Tested<()> {
        let Some(after) = self.net else { return Ok(()) };
        let mut last_id = after;
        let limit = self.limits.pass.div_ceil(2);
        let rows = rows(pass.table, after, limit);
        let full = rows.len() == limit;
        for (id, event) in rows {
            if id > pass.bound {
                self.net = None;
                return Ok(());
            }
            if self.consider(id, event, Reader::New, pass)? == Verdict::NoRoom {
                self.net = Some(last_id);
                return Ok(());
            }
            last_id = id;
        }
        self.net = full.then_some(last_id);
        Ok(())
    }

    fn take_turns(&mut self, pass: &mut Pass<'_>) -> Tested<()> {
        let mut visited = 0;
        while visited < self.limits.pass {
            let Some((topic, after)) = self.backlog.begin_turn() else { break };
            if self.lanes.is_saturated(topic, after + 1) {
                self.backlog.end_turn(Ended::Saturated(after));
                self.lanes.passed(topic, after);
                continue;
            }
            let (ended, last, rows) = self.take_turn(topic, after, pass)?;
            self.backlog.end_turn(ended);
            self.lanes.passed(topic, last);
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

    fn take_turn(&mut self, topic: Topic, after: i64, pass: &mut Pass<'_>) -> Tested<(Ended, i64, usize)> {
        let mut last_id = after;
        let rows = rows(pass.table, after, self.limits.turn);
        let count = rows.len();
        for (id, event) in rows {
            if id > pass.bound {
                return Ok((Ended::CaughtUp, pass.bound, count));
            }
            let before = id - 1;
            let ended = match self.consider(id, event, Reader::Turn(topic), pass)? {
                Verdict::Next | Verdict::Denied { for_all: false } => None,
                Verdict::NoRoom => Some(Ended::NoRoom(before)),
                Verdict::Saturated => Some(Ended::Saturated(before)),
                Verdict::Denied { for_all: true } => Some(Ended::Denied),
            };
            if let Some(ended) = ended {
                return Ok((ended, before, count));
            }
            last_id = id;
        }
        let full = count == self.limits.turn;
        Ok(if full { (Ended::UsedUp(last_id), last_id, count) } else { (Ended::CaughtUp, pass.bound, count) })
    }

    fn consider(&mut self, id: i64, event: Event, by: Reader, pass: &mut Pass<'_>) -> Tested<Verdict> {
        let Event { topic: of, lane, not_before, .. } = event;
        if let Reader::Turn(topic) = by
            && topic != of
        {
            return Ok(Verdict::Next);
        }
        if self.window.contains_key(&id) {
            return Ok(Verdict::Next);
        }
        if by == Reader::New && self.backlog.holds(of) {
            self.backlog.want(of, id);
            return Ok(Verdict::Next);
        }
        if pass.taken.iter().any(|ticket| ticket.id == id) {
            return Ok(Verdict::Next);
        }
        if let Reader::Turn(_) = by
            && self.lanes.is_open(lane, id)
            && self.lanes.is_saturated(of, id)
        {
            return Ok(Verdict::Saturated);
        }
        if not_before.is_some() {
            self.backlog.leave_behind(of);
        }
        if !self.lanes.try_admit(of, lane, id, not_before, pass.now) && self.flaw != Flaw::NoLanes {
            return Ok(Verdict::Next);
        }
        let verdict = self.take(id, event, pass)?;
        if verdict != Verdict::Next {
            self.put_off(of, lane, id);
        }
        Ok(verdict)
    }

    fn take(&mut self, id: i64, event: Event, pass: &mut Pass<'_>) -> Tested<Verdict> {
        let Event { topic, lane, not_before, is_unsendable, .. } = event;
        let mut ticket = Ticket {
            id,
            topic,
            lane,
            route: Route::Gapless,
            alone: true,
            is_open: !is_unsendable,
            is_refused: is_unsendable,
            is_held: false,
        };
        if is_unsendable {
            self.backlog.leave_behind(topic);
            self.lanes.hold_back(topic, lane, id);
        } else if pass.room <= pass.reserved {
            return Ok(Verdict::NoRoom);
        } else {
            let Some(Admission { mut route, sole_in_flight: alone }) =
                self.ramp.try_admit(&name(topic), id, lane)
            else {
                self.backlog.deny(topic, id);
                self.denied.insert(topic);
                return Ok(Verdict::Denied { for_all: !self.ramp.takes_more(&name(topic)) });
            };
            let mates = self.window.values().chain(&pass.taken);
            let is_on_its_way = lane.is_some() && mates.clone().any(|other| other.lane == lane);
            if not_before.is_some() && !is_on_its_way {
                route = Route::Quarantine;
            }
            (ticket.route, ticket.alone) = (route, alone);
            pass.room -= 1;
        }
        self.judge(ticket, event, pass)?;
        pass.taken.push(ticket);
        Ok(Verdict::Next)
    }

    /// The promise: an event goes when its wait is over, and when all earlier ones of its key that are still there are
    /// published, or on the same way.
    fn judge(&self, ticket: Ticket, event: Event, pass: &Pass<'_>) -> Tested<()> {
        let Ticket { id, lane, .. } = ticket;
        prop_assert!(event.not_before <= Some(pass.now), "{} is waiting", id);
        if lane.is_none() || ticket.is_refused {
            return Ok(());
        }
        let goes_before = |id: &i64| {
            let taken = || pass.taken.iter().find(|ticket| ticket.id == *id);
            let earlier = self.window.get(id).or_else(taken);
            earlier.is_some_and(|earlier| {
                !earlier.is_refused && (!earlier.is_open || earlier.route == ticket.route)
            })
        };
        for (other, _) in pass.table.range(..id).filter(|(_, other)| other.lane == lane) {
            prop_assert!(goes_before(other), "{} goes before {}", id, other);
        }
        Ok(())
    }

    fn withdraw(&mut self, tickets: &[Ticket]) {
        let Some(lowest) = tickets.iter().map(|ticket| ticket.id).min() else { return };
        self.look = true;
        self.floor.rewind(lowest - 1);
        for &Ticket { id, topic, lane, is_open, .. } in tickets {
            let turned_away = if is_open { self.ramp.withdraw(&name(topic), lane) } else { None };
            self.put_off(topic, lane, id);
            if self.backlog.holds(topic) {
                self.backlog.allow(topic, turned_away.map_or(id, |other| other.min(id)));
            }
        }
    }

    fn put_off(&mut self, topic: Topic, lane: Lane, id: i64) {
        if self.flaw != Flaw::DoesNotAwait && self.lanes.put_off(lane, id) {
            self.backlog.want(topic, id);
        }
    }

    fn freed(&mut self, freed: Option<Freed>) {
        let Some(Freed { topic, behind }) = freed else { return };
        match behind {
            Some(id) => self.backlog.want(topic, id),
            None => self.backlog.let_go(topic, self.lanes.has_closed(topic)),
        }
        self.look = true;
    }

    fn leave_window(&mut self, id: i64, end: End) -> Option<Ticket> {
        let ticket = self.window.remove(&id)?;
        if ticket.is_open {
            self.answered(ticket.topic, end);
        }
        self.backlog.let_go(ticket.topic, self.lanes.has_closed(ticket.topic));
        Some(ticket)
    }

    fn answered(&mut self, topic: Topic, end: End) {
        if let Some(turned_away) = self.ramp.settled(&name(topic), end) {
            self.backlog.allow(topic, turned_away);
            self.denied.remove(&topic);
            self.look = true;
        }
    }

    fn release(&mut self, id: i64, end: End) {
        let Some(ticket) = self.leave_window(id, end) else { return };
        let freed = self.lanes.release(ticket.lane, id);
        self.freed(freed);
    }

    fn hold(&mut self, id: i64, until: Micros, end: End) {
        let Some(Ticket { topic, lane, .. }) = self.leave_window(id, end) else { return };
        self.backlog.leave_behind(topic);
        self.lanes.block(topic, lane, id, until);
    }

    fn give_back(&mut self, ids: &[i64]) {
        for &id in ids {
            if let Some(Ticket { topic, lane, .. }) = self.leave_window(id, End::Well) {
                self.put_off(topic, lane, id);
            }
        }
        if let Some(lowest) = ids.iter().min() {
            self.floor.rewind(lowest - 1);
            self.look = true;
        }
    }

    /// After the commit of a settlement. `until` is when a refused event is tried again; none if it is dead.
    pub fn settled(&mut self, answers: &[(i64, Answer, Option<Micros>)], now: Micros) {
        let with = |which: fn(Answer) -> bool| -> Vec<(i64, Option<Micros>)> {
            answers
                .iter()
                .filter(|(_, answer, _)| which(*answer))
                .map(|&(id, _, until)| (id, until))
                .collect()
        };
        let ids = |which| -> Vec<i64> { with(which).into_iter().map(|(id, _)| id).collect() };
        let suspect = ids(|answer| answer == Answer::Suspect);
        let troubled: BTreeSet<Topic> = suspect.iter().map(|id| self.window[id].topic).collect();
        ids(|answer| answer == Answer::Delivered).into_iter().for_each(|id| self.release(id, End::Well));
        self.give_back(&ids(|answer| answer == Answer::Changed));
        for (id, until) in with(|answer| matches!(answer, Answer::Refused(_))) {
            match until {
                Some(until) => self.hold(id, until, End::Refused),
                None => self.release(id, End::Refused),
            }
        }
        if answers.iter().any(|(_, answer, _)| !matches!(answer, Answer::Delivered | Answer::Changed)) {
            self.give_up_unreplicated();
        }
        ids(|answer| answer == Answer::Outage).into_iter().for_each(|id| self.hold(id, now + 5, End::Well));
        suspect.into_iter().for_each(|id| self.hold(id, now, End::Suspect));
        self.give_back(&ids(|answer| answer == Answer::Stopped));
        troubled.into_iter().for_each(|topic| self.take_care_of(topic));
        self.look |= self.backlog.has_saturated();
    }

    /// An answer is there, and its row is locked.
    pub fn keep_waiting(&mut self, id: i64, refused: bool) {
        let Some(ticket) = self.window.get_mut(&id) else { return };
        ticket.is_held = true;
        ticket.is_refused |= refused;
        let Ticket { topic, lane, .. } = *ticket;
        let was_open = std::mem::take(&mut ticket.is_open);
        if refused {
            self.backlog.leave_behind(topic);
            self.lanes.hold_back(topic, lane, id);
        }
        if was_open {
            self.answered(topic, if refused { End::Refused } else { End::Well });
        }
    }

    pub fn take_care_of(&mut self, topic: Topic) {
        self.give_up_unreplicated();
        let in_flight = self.window.values().filter(|ticket| ticket.is_open && ticket.topic == topic).count();
        self.ramp.begin(&name(topic), in_flight);
    }

    pub fn give_up_unreplicated(&mut self) {
        if let Some(taken) = self.unreplicated.take() {
            self.withdraw(&taken);
        }
    }

    pub fn producer_lost(&mut self) {
        self.unreplicated = None;
        self.window.retain(|_, ticket| ticket.is_held);
        self.floor.rewind(0);
        let window = &self.window;
        self.lanes.recheck(|id| window.contains_key(&id));
        self.ramp.renew(true);
        self.backlog.allow_all();
        self.denied.clear();
        self.look = true;
    }
}

fn rows(table: &Table, after: i64, most: usize) -> Vec<(i64, Event)> {
    table.range(after + 1..).take(most).map(|(&id, &event)| (id, event)).collect()
}
