//! The state of a lane, and what waits in it.
//!
//! Whoever reads the state to change it holds the lane's lock, and reads with a snapshot of its own: the transaction's snapshot
//! may be older than the commit of the one who had the lock before.

use std::ops::Range;

use event_outbox_policy::inbox::lane::LaneState;
use event_outbox_policy::inbox::lanes::LANES;
use event_outbox_policy::inbox::plan::{MAX_WAITING, Waiting, WaitingEvents};
use pgrx::prelude::*;

use super::open_log::{LogLook, OpenLog};
use super::stored::{self, lane_number};
use super::subscription::Subscription;
use crate::inbox::table::direct::Table;
use crate::inbox::table::lanes;
use crate::pg::compat::unix_micros;
use crate::pg::index_scan::{Condition, Order, Scan};
use crate::pg::snapshot::{self, Snapshot};
use crate::pg::spi::{Access, Row, Statement};
use crate::pg::user_error::UserError;

static WAITING: Statement = Statement::ordered(
    c"SELECT r.position, r.order_key, r.attempts, r.next_attempt_at, r.is_suspect, \
             EXISTS (SELECT FROM inbox.partition AS p \
                      WHERE p.source_id OPERATOR(pg_catalog.=) r.subscription_id AND p.topic OPERATOR(pg_catalog.=) r.topic \
                        AND p.partition OPERATOR(pg_catalog.=) r.partition AND p.first_position OPERATOR(pg_catalog.>) r.skip_after) \
        FROM inbox.retry AS r \
       WHERE r.subscription_id OPERATOR(pg_catalog.=) $1 AND r.lane OPERATOR(pg_catalog.=) $2 ORDER BY r.position",
    &[pg_sys::INT4OID, pg_sys::INT2OID],
);

static COUNT_WAITING: Statement = Statement::ordered(
    c"SELECT pg_catalog.count(*) FROM inbox.retry AS r WHERE r.subscription_id OPERATOR(pg_catalog.=) $1",
    &[pg_sys::INT4OID],
);

/// The lanes at the places `$3` to `$4` in the order that begins with the lane `$2`, if they are not leased: where each has come
/// to, and whether an event that waits can be received.
static OPEN: Statement = Statement::ordered(
    c"SELECT i.i, n.lane, COALESCE(l.upto, $5), \
             EXISTS (SELECT FROM inbox.retry AS r \
                      WHERE r.subscription_id OPERATOR(pg_catalog.=) $1 AND r.lane OPERATOR(pg_catalog.=) n.lane \
                        AND (r.next_attempt_at IS NULL \
                             OR r.next_attempt_at OPERATOR(pg_catalog.<=) pg_catalog.clock_timestamp()) \
                        AND NOT EXISTS (SELECT FROM inbox.retry AS h \
                                         WHERE h.subscription_id OPERATOR(pg_catalog.=) $1 \
                                           AND h.lane OPERATOR(pg_catalog.=) n.lane \
                                           AND h.position OPERATOR(pg_catalog.<) r.position \
                                           AND h.order_key OPERATOR(pg_catalog.=) r.order_key \
                                           AND h.next_attempt_at OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp())) \
        FROM pg_catalog.generate_series($3, $4) AS i(i) \
             CROSS JOIN LATERAL (SELECT ((i.i OPERATOR(pg_catalog.+) $2) OPERATOR(pg_catalog.%) 64)::pg_catalog.int2 AS lane) AS n \
             LEFT JOIN LATERAL (SELECT l.upto, l.lease_expires_at FROM inbox.lane AS l \
                                 WHERE l.subscription_id OPERATOR(pg_catalog.=) $1 AND l.lane OPERATOR(pg_catalog.=) n.lane \
                                 ORDER BY l.seq DESC LIMIT 1) AS l ON true \
       WHERE l.lease_expires_at IS NULL OR l.lease_expires_at OPERATOR(pg_catalog.<=) pg_catalog.clock_timestamp()",
    &[pg_sys::INT4OID, pg_sys::INT4OID, pg_sys::INT4OID, pg_sys::INT4OID, pg_sys::INT8OID],
);

/// A lane with its newest state.
#[derive(Debug, Clone, Copy)]
pub struct Lane {
    /// The state.
    pub state: LaneState,
    /// New events are looked for after this position: a seek has skipped all before.
    pub from: i64,
}

/// Reads the newest state of a lane, whose lock the caller holds, with the active snapshot. Raises a serialization failure if the
/// transaction keeps to a snapshot that does not see it.
#[must_use]
pub fn newest(subscription: &Subscription, lane: u16) -> Lane {
    let newest = lanes::newest(subscription.id, lane);
    if snapshot::is_kept()
        && let Some(newest) = &newest
    {
        let _own = Snapshot::take();
        if !lanes::is_seen(subscription.id, lane, newest) {
            moved_on().raise();
        }
    }
    let state = newest.unwrap_or(LaneState::first(subscription.first_position));
    Lane { state, from: state.upto.max(subscription.skipped_to) }
}

/// The error by which a transaction learns that it has to be repeated.
#[must_use]
pub fn moved_on() -> UserError {
    UserError {
        code: PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
        message: "could not serialize access due to events received meanwhile".into(),
        detail: "Another transaction has received events of the lane since this one took its snapshot."
            .into(),
        hint: "Repeat the transaction. A READ COMMITTED transaction does not have to be repeated.".into(),
    }
}

/// The events of a lane that wait, by the active snapshot, and whether others were there that a seek has skipped. Those are
/// deleted: the seek did not see them, because a session was just setting them aside, or had them. The caller holds the
/// lane's lock.
#[must_use]
pub fn waiting(subscription: &Subscription, lane: u16) -> (WaitingEvents, bool) {
    let (events, skipped) = look_at_waiting(subscription, lane);
    if !skipped.is_empty() {
        let _ = stored::take_waited(subscription, &skipped);
    }
    (events, !skipped.is_empty())
}

/// The events of a lane that wait, by the active snapshot, and the positions of those that a seek has skipped.
#[must_use]
pub fn look_at_waiting(subscription: &Subscription, lane: u16) -> (WaitingEvents, Vec<i64>) {
    if Table::Retry
        .for_reading()
        .is_some_and(|table| !has_any(&mut table.scan_protected(Order::Ascending), subscription.id, lane))
    {
        return (WaitingEvents::default(), Vec::new());
    }
    let arguments = [subscription.id.into_datum(), lane_number(lane).into_datum()];
    let rows = WAITING.execute(&arguments, Access::Read, 0);
    let is_skipped = |row: &Row| row.get(6) == Some(true);
    let skipped: Vec<i64> = rows.iter().filter(is_skipped).filter_map(|row| row.get(1)).collect();
    let events = rows.iter().filter(|row| !is_skipped(row)).map(|row| Waiting {
        position: row.get(1).unwrap_or(0),
        order_key: row.get(2),
        attempts: row.get::<i32>(3).and_then(|attempts| u32::try_from(attempts).ok()).unwrap_or(0),
        next_attempt_at: row.get::<TimestampWithTimeZone>(4).map(|at| unix_micros(at.into())),
        is_suspect: row.get(5) == Some(true),
    });
    (WaitingEvents::new(events.collect()), skipped)
}

/// Whether an event waits in a lane, by the active snapshot.
fn has_any(scan: &mut Scan<'_, 2>, subscription: i32, lane: u16) -> bool {
    scan.restart([Condition::integer(1, subscription), Condition::smallint(2, lane_number(lane))]);
    scan.next_row::<1>().is_some()
}

/// How many further events of the subscription may wait.
#[must_use]
pub fn room_to_wait(subscription: &Subscription) -> usize {
    let rows = COUNT_WAITING.execute(&[subscription.id.into_datum()], Access::Read, 1);
    let count = rows.iter().next().and_then(|row| row.get::<i64>(1)).unwrap_or(0);
    MAX_WAITING.saturating_sub(usize::try_from(count).unwrap_or(usize::MAX))
}

/// How many lanes the first look is at, and by how much later looks are wider. Where there is much to receive, one of the first
/// lanes has something.
const FIRST_LOOK: u16 = 4;
const WIDENING: u16 = 4;

/// Calls `visit` with the lanes that seem to have something to receive, until it returns `false`: those at these places of the
/// order that begins with the lane `first`.
pub fn each_ready(
    subscription: &Subscription,
    first: u16,
    mut places: Range<u16>,
    mut visit: impl FnMut(u16) -> bool,
) {
    if let (Some(lanes), Some(retry)) = (Table::Lane.for_reading(), Table::Retry.for_reading()) {
        let log = OpenLog::of(subscription);
        let mut next = || {
            let _snapshot = Snapshot::take_latest();
            let mut look = Look {
                subscription,
                states: lanes.scan_protected(Order::Descending),
                waiting: retry.scan_protected(Order::Ascending),
                log: log.look(),
            };
            places.by_ref().map(|place| (first + place) % LANES).find(|lane| look.is_ready(*lane))
        };
        while next().is_some_and(&mut visit) {}
        return;
    }
    let (mut from, mut width) = (places.start, FIRST_LOOK);
    while from < places.end {
        let next = (from + width).min(places.end);
        if !ready(subscription, first, from, next - 1).into_iter().all(&mut visit) {
            return;
        }
        (from, width) = (next, width * WIDENING);
    }
}

/// A look at lanes without the executor, by one snapshot.
struct Look<'a> {
    subscription: &'a Subscription,
    states: Scan<'a, 3>,
    waiting: Scan<'a, 2>,
    log: LogLook<'a>,
}

impl Look<'_> {
    /// Whether a lane seems to have something to receive.
    fn is_ready(&mut self, lane: u16) -> bool {
        let state = lanes::newest_in(&mut self.states, self.subscription.id, lane);
        if has_any(&mut self.waiting, self.subscription.id, lane) {
            return !ready(self.subscription, lane, 0, 0).is_empty();
        }
        let state = state.unwrap_or(LaneState::first(self.subscription.first_position));
        state.lease.is_none_or(|lease| lease.expires_at <= crate::pg::now())
            && self.log.has_event(lane_number(lane), state.upto)
    }
}

/// The lanes at these places that seem to have something to receive.
fn ready(subscription: &Subscription, first: u16, from: u16, to: u16) -> Vec<u16> {
    let _snapshot = Snapshot::take_latest();
    let arguments = [
        subscription.id.into_datum(),
        i32::from(first).into_datum(),
        i32::from(from).into_datum(),
        i32::from(to).into_datum(),
        subscription.first_position.into_datum(),
    ];
    let rows = OPEN.execute(&arguments, Access::Read, 0);
    let mut open: Vec<(i32, i16, i64, bool)> =
        rows.iter().filter_map(|row| Some((row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))).collect();
    open.sort_unstable_by_key(|(place, ..)| *place);
    let to_look_up: Vec<(i16, i64)> = open
        .iter()
        .filter(|(.., has_waiting)| !has_waiting)
        .map(|(_, lane, upto, _)| (*lane, *upto))
        .collect();
    let with_new = subscription.log.lanes_with_events(&to_look_up);
    open.into_iter()
        .filter(|(_, lane, _, has_waiting)| *has_waiting || with_new.contains(lane))
        .filter_map(|(_, lane, ..)| u16::try_from(lane).ok())
        .collect()
}
