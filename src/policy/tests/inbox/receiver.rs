//! `inbox.receive()` of the small world. What a lane gives out is decided by the real code; the database is simulated.

use event_outbox_policy::delivery::lanes::Micros;
use event_outbox_policy::inbox::lane::{LaneState, Lease};
use event_outbox_policy::inbox::plan::{NewEvents, Step, Waiting, WaitingEvents};
use proptest::prelude::*;

use crate::database::{Change, Record, State};
use crate::deliveries::{Delivery, Note};
use crate::variant::Variant;
use crate::world::{Tested, World};

/// A lease that was given out.
#[derive(Debug, Clone)]
pub struct Leased {
    pub token: u128,
    pub lane: u16,
    pub positions: Vec<i64>,
}

/// One call.
pub struct Call {
    pub session: usize,
    pub left: u32,
    /// The token and the end of the lease, if it asks for one.
    pub lease: Option<(u128, Micros)>,
}

/// What a lane gives out.
struct Plan {
    /// The lane's next state; `None` if nothing is to be done.
    state: Option<LaneState>,
    changes: Vec<Change>,
    positions: Vec<i64>,
    waited: Vec<Waiting>,
    /// The last new event, or where the lane was.
    upto: i64,
    is_alone: bool,
}

/// What came of a visit to a lane.
enum Visit {
    Idle,
    Done,
    /// Nothing else may be received.
    Last,
    /// An error was raised.
    Raised,
}

impl World {
    /// Goes through the lanes, beginning with the given one.
    pub fn receive(&mut self, mut call: Call, first: usize) -> Tested {
        if self.sessions[call.session].transaction().is_alone() {
            return Ok(());
        }
        let mut lanes: Vec<u16> = self.log.iter().map(|record| record.lane).collect();
        lanes.sort_unstable();
        lanes.dedup();
        for place in 0..lanes.len() {
            let lane = lanes[(first + place) % lanes.len()];
            if !self.lock(call.session, lane) {
                continue;
            }
            match self.visit(&mut call, lane)? {
                Visit::Idle => self.unlock(call.session, lane),
                Visit::Done if call.left > 0 => {}
                Visit::Done | Visit::Last => return Ok(()),
                Visit::Raised => return self.raised(call.session),
            }
        }
        Ok(())
    }

    /// Receives from a lane whose lock the session has.
    fn visit(&mut self, call: &mut Call, lane: u16) -> Tested<Visit> {
        let mut view = self.view(call.session);
        let newest = view.lane(lane);
        if self.variant != Variant::RepeatableReadGoesOn && self.is_unseen(call.session, lane, newest.seq) {
            return Ok(Visit::Raised);
        }
        let mut changes = Vec::new();
        if let Some(lease) = newest.lease {
            let Some(failed) = newest.expired(self.now) else { return Ok(Visit::Idle) };
            let note = Note {
                lane,
                based_on: failed.based_on,
                upto: failed.upto,
                count: failed.count,
                retried: (lease.upto <= newest.upto).then_some(lease.upto),
            };
            let holder = self.leases.iter().find(|leased| leased.token == lease.token);
            self.judge.has_failed(holder.map_or(&[], |leased| &leased.positions));
            changes = self.settle(&view, &note)?.unwrap_or_default();
            view = view.with(&changes);
        }
        let has_expired = !changes.is_empty();
        let has_received = self.sessions[call.session].transaction().has_received();
        let state = view.lane(lane);
        let plan = if state.batch_limit == 1 && has_received {
            Plan::nothing(&state)
        } else {
            self.plan(call, lane, &view, has_received)?
        };
        changes.extend(plan.changes.iter().cloned());
        changes.extend(plan.state.map(|state| Change::Lane(lane, state)));
        if changes.is_empty() {
            return Ok(Visit::Idle);
        }
        if !self.write(call.session, changes)? {
            return Ok(Visit::Raised);
        }
        if plan.positions.is_empty() {
            prop_assert!(has_expired || plan.state.is_some(), "an idle lane was changed");
            return Ok(Visit::Done);
        }
        self.deliver(call, lane, newest.seq, plan)
    }

    /// Decides what the lane gives out.
    fn plan(&mut self, call: &Call, lane: u16, view: &State, has_received: bool) -> Tested<Plan> {
        let state = view.lane(lane);
        let waiting = WaitingEvents::new(view.waiting_in(lane));
        let limit = if call.lease.is_some() { 1 } else { state.limit(call.left) };
        let due = if self.variant == Variant::RetryAheadOfItsKey {
            let is_due = |event: &&Waiting| event.next_attempt_at.is_none_or(|at| at <= self.now);
            view.waiting_in(lane).iter().filter(is_due).map(|event| event.position).take(1).collect()
        } else {
            waiting.due(limit, self.now)
        };
        if due.is_empty() || self.variant == Variant::ParkedIsOvertaken {
            let plan = self.plan_new(call, lane, view, &waiting)?;
            if due.is_empty() || plan.state.is_some() {
                return Ok(plan);
            }
        }
        let waited: Vec<Waiting> = due.iter().map(|at| view.waiting[at].1.clone()).collect();
        let has_failed = waited.len() == 1 && waited[0].attempts > 0;
        let mut plan = Plan { positions: due, waited, ..Plan::nothing(&state) };
        let count = plan.positions.len() as u32;
        if let Some((token, expires_at)) = call.lease {
            let lease = Lease { token, upto: plan.positions[0], count, expires_at };
            plan.state = Some(state.leased(lease));
            return Ok(plan);
        }
        if has_failed && has_received {
            return Ok(Plan::nothing(&state));
        }
        plan.is_alone = count == 1 && (has_failed || state.batch_limit == 1);
        plan.changes = plan.positions.iter().map(|at| Change::Gone(*at)).collect();
        plan.state = Some(state.acknowledged(state.upto, count));
        Ok(plan)
    }

    fn plan_new(&mut self, call: &Call, lane: u16, view: &State, waiting: &WaitingEvents) -> Tested<Plan> {
        let state = view.lane(lane);
        let from = state.upto.max(view.first_positions.into_iter().min().unwrap_or(0));
        let limit = state.limit(call.left);
        let mut new = NewEvents::new(waiting, from, limit, self.room(view));
        let mut plan = Plan { upto: from, ..Plan::nothing(&state) };
        let mut passed = from;
        let mut leased_from = None;
        for record in self.of_lane(view, lane, from) {
            let key = self.key_that_blocks(&record, view);
            if view.is_skipped(&record) {
                passed = record.position;
                continue;
            }
            // A lease is passed as a whole, so nothing in it can be parked.
            if leased_from.is_some() && waiting.is_blocked(key) {
                break;
            }
            match new.consider(record.position, key) {
                Step::Stop => break,
                Step::Park => plan.changes.push(Change::Wait(lane, parked(&record, 0))),
                Step::Receive => {
                    leased_from = leased_from.or(call.lease.map(|_| passed));
                    plan.upto = record.position;
                    plan.positions.push(record.position);
                }
            }
            passed = record.position;
        }
        self.judge.rows_are_bounded(view, &plan.changes, self.limits.room)?;
        let count = new.received();
        if let (Some((token, expires_at)), Some(before)) = (call.lease, leased_from) {
            let lease = Lease { token, upto: plan.upto, count, expires_at };
            plan.state = Some(LaneState { upto: before, ..state }.leased(lease));
        } else if passed != state.upto {
            plan.state = Some(state.acknowledged(passed, count));
            plan.is_alone = count == 1 && state.batch_limit == 1;
        }
        Ok(plan)
    }

    /// The order key by which an event can be blocked.
    fn key_that_blocks<'a>(&self, record: &'a Record, view: &State) -> Option<&'a [u8]> {
        let key = record.order_key.as_deref();
        let waits = |failed: bool| {
            view.waiting
                .values()
                .any(|(_, event)| event.order_key.as_deref() == key && (event.attempts > 0 || !failed))
        };
        match self.variant {
            Variant::NothingIsParked => None,
            Variant::ParkedIsOvertaken => key.filter(|_| waits(true)),
            _ => key,
        }
    }

    fn deliver(&mut self, call: &mut Call, lane: u16, based_on: i64, plan: Plan) -> Tested<Visit> {
        let Plan { positions, waited, upto, is_alone, .. } = plan;
        call.left = call.left.saturating_sub(positions.len() as u32);
        for position in &positions {
            let snapshot = self.sessions[call.session].transaction().snapshot.clone();
            self.judge.may_be_received(&self.latest, snapshot.as_deref(), &self.log, *position)?;
        }
        if let Some((token, _)) = call.lease {
            self.leases.push(Leased { token, lane, positions });
            return Ok(Visit::Last);
        }
        let transaction = self.sessions[call.session].transaction();
        let in_savepoint = transaction.savepoint.is_some();
        transaction.add(Delivery {
            lane,
            based_on,
            upto,
            positions,
            waited,
            is_alone,
            given_back: Vec::new(),
            in_savepoint,
            failed: None,
        });
        Ok(if is_alone { Visit::Last } else { Visit::Done })
    }

    /// The events of a lane after a position that a snapshot sees.
    pub fn of_lane(&self, view: &State, lane: u16, after: i64) -> Vec<Record> {
        let seen = self.log.iter().take(view.rows);
        seen.filter(|record| record.lane == lane && record.position > after).cloned().collect()
    }

    /// How many further events may wait.
    pub fn room(&self, view: &State) -> usize {
        match self.variant {
            Variant::NoBound => usize::MAX,
            _ => self.limits.room.saturating_sub(view.waiting.len()),
        }
    }
}

impl Plan {
    fn nothing(state: &LaneState) -> Self {
        Self {
            state: None,
            changes: Vec::new(),
            positions: Vec::new(),
            waited: Vec::new(),
            upto: state.upto,
            is_alone: false,
        }
    }
}

/// The row of an event that waits for another.
pub fn parked(record: &Record, attempts: u32) -> Waiting {
    Waiting {
        position: record.position,
        order_key: record.order_key.clone(),
        attempts,
        next_attempt_at: None,
        is_suspect: false,
    }
}
