//! Leases: events that a session handles outside of a transaction. `inbox.receive(lease => …)` writes the lease into the lane's
//! state, and `inbox.ack()` acknowledges its events. The lane gives nothing out meanwhile.

use std::time::Duration;

use event_outbox_policy::inbox::lane::{LaneState, Lease};
use event_outbox_policy::inbox::lanes::LANES;
use pgrx::prelude::*;

use super::lane;
use super::refusals::require_writable;
use super::stored;
use super::subscription::Subscription;
use crate::failpoints::{self, Point};
use crate::inbox::table::{SUBSCRIPTION, lane_lock, lanes};
use crate::pg::backend;
use crate::pg::function::{self, Arguments, sql_function};
use crate::pg::snapshot::Snapshot;
use crate::pg::spi;
use crate::pg::user_context::{Owner, UserContext};
use crate::pg::user_error::UserError;

sql_function!(inbox_ack, pg_finfo_inbox_ack, ack);
sql_function!(inbox_extend, pg_finfo_inbox_extend, extend);

/// The longest lease.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

/// The length of a lease, from an argument; an ERROR if it cannot be one.
#[must_use]
pub fn length(interval: pgrx::datum::Interval) -> Duration {
    let micros = u64::try_from(interval.as_micros()).unwrap_or(0);
    let length = Duration::from_micros(micros);
    if length.is_zero() || length > LONGEST {
        UserError {
            code: PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            message: "invalid length of a lease".into(),
            detail: format!("It is {} seconds.", interval.as_micros() as f64 / 1e6),
            hint: "Pass an interval up to 7 days, such as '30 s'.".into(),
        }
        .raise();
    }
    length
}

/// A lease of this lane from now on.
#[must_use]
pub fn new(subscription: &Subscription, lane: u16, upto: i64, count: u32, length: Duration) -> Lease {
    Lease { token: token(subscription.id, lane), upto, count, expires_at: expiry(length) }
}

fn expiry(length: Duration) -> i64 {
    crate::pg::now().saturating_add(i64::try_from(length.as_micros()).unwrap_or(i64::MAX))
}

/// A UUID version 8: the subscription, the lane, and random bytes. So the lane of a token is found without an index.
fn token(subscription: i32, lane: u16) -> u128 {
    let random = *function::new_uuid().as_bytes();
    let mut bytes = [0_u8; 16];
    bytes[..4].copy_from_slice(&subscription.to_be_bytes());
    bytes[4] = lane as u8;
    // A UUID version 7 begins with the time; the rest of it is random.
    bytes[6..].copy_from_slice(&random[6..]);
    bytes[5] = random[5];
    u128::from_be_bytes(*uuid::Builder::from_custom_bytes(bytes).as_uuid().as_bytes())
}

/// The subscription and the lane of a token; `None` if it is not one of ours.
fn place(token: u128) -> Option<(i32, u16)> {
    let bytes = token.to_be_bytes();
    let (subscription, rest) = bytes.split_first_chunk()?;
    let lane = u16::from(*rest.first()?);
    (lane < LANES).then(|| (i32::from_be_bytes(*subscription), lane))
}

/// `inbox.ack()`: whether the lease still held.
fn ack(arguments: &Arguments) -> Option<pg_sys::Datum> {
    change(arguments, "inbox.ack()", |token, state| state.lease_acknowledged(token)).into_datum()
}

/// `inbox.extend()`: whether the lease still held.
fn extend(arguments: &Arguments) -> Option<pg_sys::Datum> {
    let length = length(arguments.interval(1)?);
    let longer = |token: u128, state: &LaneState| {
        let earliest = state.lease.map_or(0, |lease| lease.expires_at);
        state.extended(token, expiry(length).max(earliest))
    };
    change(arguments, "inbox.extend()", longer).into_datum()
}

/// Changes the state of the lane of a lease; `false` if nobody has the lease any more.
fn change(
    arguments: &Arguments,
    function: &str,
    next: impl Fn(u128, &LaneState) -> Option<LaneState>,
) -> bool {
    let Some(token) = arguments.uuid(0) else { return false };
    let token = u128::from_be_bytes(*token.as_bytes());
    require_writable(function);
    let caller = backend::user();
    let _owner = UserContext::switch_to(Owner::of(SUBSCRIPTION));
    spi::connected(|| {
        let Some((id, lane)) = place(token) else { return false };
        let Some(subscription) = Subscription::with_id(id) else { return false };
        // Checks the right.
        let subscription = Subscription::named(&subscription.name, caller);
        if subscription.id != id {
            return false;
        }
        lane_lock::wait(id, lane);
        let _snapshot = Snapshot::take_latest();
        let changed = Subscription::with_id(id).and_then(|subscription| {
            let found = lane::newest(&subscription, lane);
            let lease = found.state.lease?;
            let next = next(token, &found.state)?;
            Some((found.state, lease, next))
        });
        let Some((state, lease, next)) = changed else {
            lane_lock::release(id, lane);
            return false;
        };
        // An event that had waited is behind the lane's position.
        if next.lease.is_none() && lease.upto <= state.upto {
            let _ = stored::take_waited(&subscription, &[lease.upto]);
        }
        lanes::insert(subscription.id, lane, &next);
        failpoints::reach(Point::InLease);
        true
    })
}
