//! What a failure means: the next batch of the lane is smaller; or the event that failed alone waits for another attempt, or is
//! a dead letter.
//!
//! Runs in: the ingest worker, for transactions that were rolled back; client backends, for leases that have expired.

use std::time::Duration;

use event_outbox_policy::delivery::lanes::Micros;
use event_outbox_policy::inbox::charge::{Fate, fate};
use event_outbox_policy::inbox::lane::{Consequence, Failed, LaneState};
use event_outbox_policy::inbox::plan::{NewEvents, Step, WaitingEvents};

use super::failures::{Cause, Failure};
use super::lane::{self, Lane};
use super::open_log::OpenLog;
use super::stored::{self, Stored, lane_number};
use super::subscription::Subscription;
use crate::inbox::mistakes;
use crate::inbox::table::lane_lock;
use crate::inbox::table::lanes;
use crate::inbox::table::rebuilds;
use crate::pg::compat::pg_timestamp;
use crate::pg::function::random;
use crate::pg::snapshot::Snapshot;
use crate::settings::events::retry_backoff;

/// About how many events are read: those up to the one that failed.
const NEARLY: usize = 1;

/// What became of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// The lane has a new state.
    Done,
    /// Nothing: the lane has moved meanwhile, or the subscription is no more.
    Stale,
    /// Another transaction has the lane: try again later.
    Busy,
}

/// Applies a failure. In a transaction, connected to SPI, acting as the owner of the tables; the lane is locked until the
/// transaction ends.
#[must_use]
pub fn apply(failure: &Failure) -> Applied {
    if failure.lane == rebuilds::COPY {
        let _snapshot = Snapshot::take_latest();
        rebuilds::note_crash(failure.subscription_id);
        return Applied::Done;
    }
    if !lane_lock::try_acquire(failure.subscription_id, failure.lane) {
        return Applied::Busy;
    }
    let _snapshot = Snapshot::take_latest();
    let found = Subscription::with_id(failure.subscription_id);
    let applied = found.and_then(|subscription| {
        let lane = lane::newest(&subscription, failure.lane);
        settle(&subscription, &lane, failure)
    });
    if applied.is_some() {
        return Applied::Done;
    }
    lane_lock::release(failure.subscription_id, failure.lane);
    Applied::Stale
}

/// Applies a failure to the state of a lane, whose lock the caller holds; stores the next state, and returns it. `None` if the
/// failure is stale. Reads with the active snapshot.
pub fn settle(subscription: &Subscription, lane: &Lane, failure: &Failure) -> Option<LaneState> {
    let failed = Failed { based_on: failure.based_on, upto: failure.upto, count: failure.count };
    if let Cause::Crash(crash) = failure.cause
        && !crash.is_to_blame
    {
        let next = lane.state.suspected(failed)?;
        if crash.has_waited {
            stored::suspect_waiting(subscription, failure.lane);
        }
        lanes::insert(subscription.id, failure.lane, &next);
        return Some(next);
    }
    let next = match mistakes::consequence(&lane.state, failed) {
        Consequence::Stale => return None,
        Consequence::Narrow(next) => next,
        Consequence::Charge(next) => LaneState { upto: charge_event(subscription, lane, failure), ..next },
    };
    lanes::insert(subscription.id, failure.lane, &next);
    Some(next)
}

/// Charges the one event that failed, and returns the position that the lane has passed then.
fn charge_event(subscription: &Subscription, lane: &Lane, failure: &Failure) -> i64 {
    // What a seek has skipped meanwhile is no more.
    let (waiting, _) = lane::waiting(subscription, failure.lane);
    if let Some(position) = failure.retried {
        for event in stored::take_waited(subscription, &[position]) {
            charge(subscription, failure.lane, &event, How::of(failure));
        }
        return lane.state.upto;
    }
    pass_to(subscription, lane, failure, &waiting)
}

/// Passes the events up to the one that failed, which is charged. Those before it waited behind others when it was received.
fn pass_to(subscription: &Subscription, lane: &Lane, failure: &Failure, waiting: &WaitingEvents) -> i64 {
    let room = if waiting.is_empty() { 0 } else { lane::room_to_wait(subscription) };
    let mut new = NewEvents::new(waiting, lane.state.upto, 1, room);
    let mut upto = lane.from;
    OpenLog::of(subscription).each_event(lane_number(failure.lane), upto, NEARLY, |event| {
        let position = event.position();
        if position > failure.upto {
            return false;
        }
        if event.is_skipped() && !subscription.is_replay {
            upto = position;
            return true;
        }
        let key = if waiting.is_empty() { None } else { event.order_key(subscription) };
        match new.consider(position, key.as_deref()) {
            Step::Park => event.park(subscription, failure.lane),
            Step::Receive if position == failure.upto => {
                charge(subscription, failure.lane, event, How::of(failure));
            }
            Step::Receive | Step::Stop => return false,
        }
        upto = position;
        upto < failure.upto
    });
    upto
}

/// How an event has failed.
#[derive(Debug, Clone, Copy)]
pub struct How<'a> {
    /// The error.
    pub error: &'a str,
    /// For how long it waits, if that is not for the settings to say.
    pub wait: Option<Duration>,
    /// Whether it has crashed the server.
    pub has_crashed: bool,
}

impl<'a> How<'a> {
    fn of(failure: &'a Failure) -> Self {
        Self { error: &failure.error, wait: None, has_crashed: failure.cause != Cause::GivenUp }
    }
}

/// Charges an event for a failure.
pub fn charge(subscription: &Subscription, lane: u16, event: &Stored, how: How<'_>) -> Fate {
    let attempts = event.attempts().saturating_add(1);
    let now = crate::pg::now();
    let decided = match (fate(attempts, subscription.max_attempts, retry_backoff(), now, random()), how.wait)
    {
        (Fate::RetryAt(_), Some(wait)) => Fate::RetryAt(after(now, wait)),
        (decided, _) => decided,
    };
    match decided {
        Fate::RetryAt(at) => {
            event.retry(subscription, lane, attempts, pg_timestamp(at), how.error, how.has_crashed)
        }
        Fate::Dead => event.die(subscription, lane, attempts, how.error),
    }
    decided
}

fn after(now: Micros, wait: Duration) -> Micros {
    now.saturating_add(Micros::try_from(wait.as_micros()).unwrap_or(Micros::MAX))
}
