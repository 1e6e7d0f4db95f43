//! `inbox.receive()`.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use event_outbox_policy::inbox::lane::LaneState;
use event_outbox_policy::inbox::lanes::LANES;
use event_outbox_policy::inbox::plan::{NewEvents, Step, WaitingEvents};
use pgrx::prelude::*;

use super::charge;
use super::crashed;
use super::decode::{self, Decoder};
use super::deliveries::{self, Delivery, Waited};
use super::failures::{self, Cause, Failure};
use super::lane::{self, Lane};
use super::lease;
use super::open_log::OpenLog;
use super::output::Output;
use super::ready;
use super::refusals::{no_name, require_writable};
use super::stored::{self, Stored, lane_number};
use super::subscription::Subscription;
use crate::failpoints::{self, Point};
use crate::inbox::arrivals;
use crate::inbox::mistakes;
use crate::inbox::table::{SUBSCRIPTION, lane_lock, lanes};
use crate::pg::backend;
use crate::pg::function::{Arguments, sql_function};
use crate::pg::snapshot::{self, Snapshot};
use crate::pg::spi;
use crate::pg::user_context::{Owner, UserContext};
use crate::pg::user_error::UserError;
use crate::settings::registry;

sql_function!(inbox_receive, pg_finfo_inbox_receive, receive);

/// The most events of one call.
const MAX_EVENTS: i32 = 10_000;

thread_local! {
    /// The lane at which the next call of this session begins, so that each lane has its turn.
    static FIRST_LANE: Cell<Option<u16>> = const { Cell::new(None) };
}

fn receive(arguments: &Arguments) -> Option<pg_sys::Datum> {
    let output = Output::of(arguments);
    let name = arguments.text(0).unwrap_or_else(|| no_name().raise());
    let wanted = arguments.integer(1).filter(|wanted| (1..=MAX_EVENTS).contains(wanted));
    let wanted = wanted.map_or_else(|| wrong_number(arguments.integer(1)).raise(), i32::unsigned_abs);
    let lease = arguments.interval(2).map(lease::length);
    require_writable("inbox.receive()");
    let caller = backend::user();
    let _owner = UserContext::switch_to(Owner::of(SUBSCRIPTION));
    spi::connected(|| {
        let subscription = Subscription::named(name, caller);
        failures::require_worker();
        if !subscription.is_paused && !deliveries::is_alone() {
            Receiver { subscription, output, decoder: Decoder::default(), lease, left: wanted }.visit_lanes();
            // Before a handler sees the events: it may crash the server.
            deliveries::write_down();
        }
    });
    failpoints::reach(Point::AfterReceive);
    None
}

/// One call.
struct Receiver {
    subscription: Rc<Subscription>,
    output: Output,
    decoder: Decoder,
    lease: Option<Duration>,
    /// How many further events are wanted.
    left: u32,
}

/// What was given out of a lane.
enum Visit {
    /// Nothing, and nothing of the lane was changed.
    Idle,
    /// Something, or the lane has passed events.
    Done,
    /// Something, and nothing else may be received.
    Last,
}

impl Receiver {
    /// Goes through the lanes, beginning with another one in each call. Where there is much to receive, the first one has
    /// something, so it is locked without a look. A transaction that keeps to one snapshot fails at a lane that has moved on,
    /// so it locks none without need.
    fn visit_lanes(&mut self) {
        let first =
            FIRST_LANE.get().unwrap_or_else(|| (crate::pg::function::random() * f64::from(LANES)) as u16);
        let subscription = Rc::clone(&self.subscription);
        let (wanted, mut locked) = (self.left, Vec::new());
        let looks_first = snapshot::is_kept() && mistakes::looks_first();
        let goes_on = looks_first || self.try_lane(first, &mut locked);
        let begin = u16::from(self.left < wanted);
        if goes_on {
            lane::each_ready(&subscription, first, begin..LANES, |lane| self.try_lane(lane, &mut locked));
        }
        if self.left == wanted && !locked.is_empty() {
            // The caller may be about to sleep.
            arrivals::turned_away();
            let _ = locked.into_iter().all(|lane| self.try_lane(lane, &mut Vec::new()));
        }
    }

    /// Receives from a lane, unless another session has it. Returns whether to go on.
    fn try_lane(&mut self, lane: u16, locked: &mut Vec<u16>) -> bool {
        let id = self.subscription.id;
        if crashed::holds(id, lane) {
            return true;
        }
        if !lane_lock::try_acquire(id, lane) {
            locked.push(lane);
            return true;
        }
        let wanted = self.left;
        let visit = self.visit(lane);
        if matches!(visit, Visit::Idle) {
            lane_lock::release(id, lane);
            // Something may have come since, and another session may have found the lane locked.
            arrivals::lanes_freed();
        }
        if self.left < wanted {
            FIRST_LANE.set(Some((lane + 1) % LANES));
        }
        self.left > 0 && !matches!(visit, Visit::Last)
    }

    /// Receives from a lane whose lock this transaction has.
    fn visit(&mut self, lane: u16) -> Visit {
        let _snapshot = Snapshot::take_latest();
        let Some(subscription) = Subscription::with_id(self.subscription.id) else { return Visit::Idle };
        self.subscription = subscription;
        if self.subscription.is_paused {
            return Visit::Idle;
        }
        let found = lane::newest(&self.subscription, lane);
        let based_on = found.state.seq;
        let Some(open) = self.expire(lane, found) else { return Visit::Idle };
        let has_expired = open.state.seq != based_on;
        if open.state.is_alone() && deliveries::is_any() {
            return if has_expired { Visit::Done } else { Visit::Idle };
        }
        // Rows that an expired lease has just written are seen, too.
        let _snapshot = has_expired.then(Snapshot::take_latest);
        let (waiting, has_dropped) = lane::waiting(&self.subscription, lane);
        let visit = match self.due(&waiting, &open.state) {
            due if due.is_empty() => self.receive_new(lane, based_on, &open, &waiting),
            due => self.receive_waiting(lane, based_on, &open.state, &due),
        };
        match visit {
            Visit::Idle if has_expired || has_dropped => Visit::Done,
            visit => visit,
        }
    }

    /// The lane without its lease, if that has expired; `None` while there is one.
    fn expire(&self, lane: u16, found: Lane) -> Option<Lane> {
        let Some(lease) = found.state.lease else { return Some(found) };
        let failed = found.state.expired(crate::pg::now())?;
        let failure = Failure {
            subscription_id: self.subscription.id,
            lane,
            based_on: failed.based_on,
            upto: failed.upto,
            count: failed.count,
            retried: (lease.upto <= found.state.upto).then_some(lease.upto),
            error: "the lease expired".into(),
            cause: Cause::GivenUp,
        };
        let state = charge::settle(&self.subscription, &found, &failure)?;
        Some(Lane { state, from: found.from.max(state.upto) })
    }

    /// The waiting events to receive. One that has failed is received alone in the transaction.
    fn due(&self, waiting: &WaitingEvents, state: &LaneState) -> Vec<i64> {
        if waiting.is_empty() {
            return Vec::new();
        }
        let limit = if self.lease.is_some() { 1 } else { state.limit(self.left) };
        decode::decodable(&self.subscription, waiting.due(limit, crate::pg::now()))
    }

    fn receive_waiting(&mut self, lane: u16, based_on: i64, state: &LaneState, due: &[i64]) -> Visit {
        if let Some(length) = self.lease {
            return self.lease_waiting(lane, state, due, length);
        }
        // An event that has failed, or is suspect, is due alone.
        let alone = if due.len() == 1 { stored::waited(&self.subscription, due) } else { Vec::new() };
        let is_suspect = alone.iter().any(Stored::is_suspect);
        let comes_alone = is_suspect || alone.iter().any(|event| event.attempts() > 0);
        if comes_alone && deliveries::is_any() || is_suspect && !ready::try_suspects() {
            return Visit::Idle;
        }
        let taken = stored::take_waited(&self.subscription, due);
        if taken.len() < due.len() {
            // A seek has deleted them since, or the transaction's snapshot does not see them.
            lane::moved_on().raise();
        }
        let count = u32::try_from(taken.len()).unwrap_or(u32::MAX);
        lanes::insert(self.subscription.id, lane, &state.acknowledged(state.upto, count));
        let mut delivery = Delivery::new(self.subscription.id, lane, based_on, state.upto);
        delivery.is_alone = count == 1 && (comes_alone || state.is_alone());
        delivery.is_suspect = is_suspect;
        delivery.has_more = true;
        let rows: Vec<spi::Row> = taken.iter().filter_map(Stored::waiting_row).collect();
        let kept = spi::kept_for_transaction(&rows);
        delivery
            .waited
            .extend(taken.iter().zip(kept).map(|(event, row)| Waited { position: event.position(), row }));
        self.deliver(&taken, &mut delivery, None);
        Self::end(delivery)
    }

    fn lease_waiting(&mut self, lane: u16, state: &LaneState, due: &[i64], length: Duration) -> Visit {
        let events = stored::waited(&self.subscription, due);
        let Some(event) = events.first() else { return Visit::Idle };
        let lease = lease::new(&self.subscription, lane, event.position(), 1, length);
        lanes::insert(self.subscription.id, lane, &state.leased(lease));
        self.decoder.add(&self.output, event, Some(lease.token));
        self.left -= 1;
        Visit::Last
    }

    /// Adds events to what the call returns, and to what the transaction has received.
    fn deliver(&mut self, events: &[Stored], delivery: &mut Delivery, lease: Option<u128>) {
        for event in events {
            self.decoder.add(&self.output, event, lease);
            delivery.positions.push(event.position());
            self.left -= 1;
        }
    }

    fn end(delivery: Delivery) -> Visit {
        let visit = if delivery.is_alone { Visit::Last } else { Visit::Done };
        deliveries::add(delivery);
        visit
    }

    fn receive_new(&mut self, lane: u16, based_on: i64, open: &Lane, waiting: &WaitingEvents) -> Visit {
        let state = &open.state;
        // What a lease holds is handled outside of a transaction: its lock would protect nothing.
        let is_suspect = state.is_suspect() && self.lease.is_none();
        if is_suspect && !ready::try_suspects() {
            return Visit::Idle;
        }
        let room = if waiting.is_empty() { 0 } else { lane::room_to_wait(&self.subscription) };
        let limit = state.limit(self.left);
        let mut new = NewEvents::new(waiting, open.from, limit, room);
        let mut delivery = Delivery::new(self.subscription.id, lane, based_on, open.from);
        let mut passed = open.from;
        // A lease is known before its first event is returned; what it holds, only after the last one.
        let mut lease = self.lease.map(|length| lease::new(&self.subscription, lane, 0, 0, length));
        let mut leased_from = None;
        let subscription = Rc::clone(&self.subscription);
        let has_registry = registry::url().is_some();
        // Unless the end of the lane is reached.
        delivery.has_more =
            OpenLog::of(&subscription).each_event(lane_number(lane), passed, limit as usize, |event| {
                let position = event.position();
                if event.is_skipped() && !subscription.is_replay {
                    passed = position;
                    return true;
                }
                let key = if waiting.is_empty() { None } else { event.order_key(&subscription) };
                // What a lease holds is passed with it, as a whole; so nothing in it can be parked.
                if leased_from.is_some() && waiting.is_blocked(key.as_deref()) {
                    return false;
                }
                match mistakes::step(new.consider(position, key.as_deref())) {
                    Step::Stop => return false,
                    Step::Park => event.park(&subscription, lane),
                    Step::Receive if has_registry && decode::must_wait(event) => return false,
                    Step::Receive => {
                        leased_from = leased_from.or(lease.map(|_| passed));
                        delivery.upto = position;
                        let token = lease.map(|lease| lease.token);
                        self.deliver(std::slice::from_ref(event), &mut delivery, token);
                    }
                }
                passed = position;
                new.has_room()
            });
        let count = new.received();
        if let (Some(lease), Some(before)) = (&mut lease, leased_from) {
            (lease.upto, lease.count) = (delivery.upto, count);
            lanes::insert(self.subscription.id, lane, &LaneState { upto: before, ..*state }.leased(*lease));
            return Visit::Last;
        }
        if is_suspect && count == 0 {
            lane_lock::release_suspects();
        }
        if passed == state.upto {
            return Visit::Idle;
        }
        lanes::insert(self.subscription.id, lane, &state.acknowledged(passed, count));
        if count == 0 {
            return Visit::Done;
        }
        delivery.is_alone = count == 1 && state.is_alone();
        delivery.is_suspect = is_suspect;
        Self::end(delivery)
    }
}

fn wrong_number(wanted: Option<i32>) -> UserError {
    UserError {
        code: PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        message: "invalid number of events".into(),
        detail: format!("max_events is {}.", wanted.map_or("NULL".into(), |wanted| wanted.to_string())),
        hint: format!("Pass a number from 1 to {MAX_EVENTS}."),
    }
}
