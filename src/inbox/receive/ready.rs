//! Whether a lane has something to receive, without receiving it.

use event_outbox_policy::inbox::lanes::LANES;
use event_outbox_policy::inbox::plan::{NewEvents, Step};

use super::crashed;
use super::decode;
use super::lane;
use super::open_log::OpenLog;
use super::stored::{self, lane_number};
use super::subscription::Subscription;
use crate::inbox::arrivals;
use crate::inbox::table::lane_lock;
use crate::pg::snapshot::Snapshot;
use crate::settings::registry;

/// How many of the waiting events are looked at for one that can be decoded.
const LOOKED_AT: u32 = 100;

/// Whether `inbox.receive()` would find something to do in a lane that no other session has locked.
#[must_use]
pub fn is_any(subscription: &Subscription) -> bool {
    let mut is_ready = false;
    let mut locked = Vec::new();
    lane::each_ready(subscription, 0, 0..LANES, |lane| {
        is_ready = try_lane(subscription, lane, &mut locked);
        !is_ready
    });
    if is_ready || locked.is_empty() {
        return is_ready;
    }
    arrivals::turned_away();
    locked.into_iter().any(|lane| try_lane(subscription, lane, &mut Vec::new()))
}

/// Takes the lock of suspect events, for which another session may have to be waited.
#[must_use]
pub fn try_suspects() -> bool {
    lane_lock::try_acquire_suspects() || {
        arrivals::turned_away();
        lane_lock::try_acquire_suspects()
    }
}

fn try_lane(subscription: &Subscription, lane: u16, locked: &mut Vec<u16>) -> bool {
    if crashed::holds(subscription.id, lane) {
        return false;
    }
    if !lane_lock::try_acquire(subscription.id, lane) {
        locked.push(lane);
        return false;
    }
    let is_ready = has_something(subscription, lane);
    lane_lock::release(subscription.id, lane);
    is_ready
}

/// As `inbox.receive()` decides, for a lane whose lock the caller holds.
fn has_something(subscription: &Subscription, lane: u16) -> bool {
    let _snapshot = Snapshot::take_latest();
    let found = lane::newest(subscription, lane);
    if found.state.lease.is_some() {
        return found.state.expired(crate::pg::now()).is_some();
    }
    let (waiting, skipped) = lane::look_at_waiting(subscription, lane);
    if !skipped.is_empty() {
        return true;
    }
    // More than one, since the first may have to wait for its schema.
    let looked_at = if registry::url().is_some() { LOOKED_AT } else { 1 };
    let due = waiting.due(found.state.limit(looked_at), crate::pg::now());
    if let Some(position) = decode::decodable(subscription, due).first() {
        let is_suspect = stored::waited(subscription, &[*position]).iter().any(stored::Stored::is_suspect);
        return !is_suspect || may_take_suspects();
    }
    let room = if waiting.is_empty() { 0 } else { lane::room_to_wait(subscription) };
    let mut is_ready = false;
    OpenLog::of(subscription).each_event(lane_number(lane), found.from, 1, |event| {
        let is_skipped = event.is_skipped() && !subscription.is_replay;
        let key = event.order_key(subscription);
        let step = NewEvents::new(&waiting, found.from, 1, room).consider(event.position(), key.as_deref());
        is_ready = is_skipped
            || step != Step::Stop
                && !(registry::url().is_some() && decode::must_wait(event))
                && (!found.state.is_suspect() || may_take_suspects());
        false
    });
    is_ready
}

fn may_take_suspects() -> bool {
    let may_take = try_suspects();
    if may_take {
        lane_lock::release_suspects();
    }
    may_take
}
