//! Reads and writes the states of lanes.
//!
//! Runs in: whoever holds the lane's lock, in a transaction, as the owner of the tables.

use std::cell::RefCell;

use event_outbox_policy::inbox::lane::{LaneState, Lease};
use event_outbox_policy::inbox::lanes::LANES;
use pgrx::prelude::*;

use super::direct::Table;
use crate::inbox::mistakes;
use crate::pg::compat;
use crate::pg::index_scan::{Condition, Order, Scan};
use crate::pg::spi::{Access, Statement};

static NEWEST: Statement = Statement::ordered(
    c"SELECT l.seq, l.upto, l.batch_limit, l.lease, l.lease_upto, l.lease_count, l.lease_expires_at, l.suspect_upto \
        FROM inbox.lane AS l \
       WHERE l.subscription_id OPERATOR(pg_catalog.=) $1 AND l.lane OPERATOR(pg_catalog.=) $2 \
       ORDER BY l.seq DESC LIMIT 1",
    &[pg_sys::INT4OID, pg_sys::INT2OID],
);

static INSERT: Statement = Statement::new(
    c"INSERT INTO inbox.lane (subscription_id, lane, seq, upto, batch_limit, lease, lease_upto, lease_count, \
                              lease_expires_at, suspect_upto) \
      VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
    &[
        pg_sys::INT4OID,
        pg_sys::INT2OID,
        pg_sys::INT8OID,
        pg_sys::INT8OID,
        pg_sys::INT4OID,
        pg_sys::UUIDOID,
        pg_sys::INT8OID,
        pg_sys::INT4OID,
        pg_sys::TIMESTAMPTZOID,
        pg_sys::INT8OID,
    ],
);

/// How many columns the table has.
const COLUMNS: usize = 10;

/// How many columns of the table the statement leaves out, less one: SQL counts from 1.
const BEFORE_STATE: i32 = 1;

/// The number of the newest state that this process has read of each lane of one subscription. The lane has it or a later one,
/// unless it was read in a transaction that was rolled back.
#[derive(Clone, Copy)]
struct Read {
    subscription: i32,
    newest: [i64; LANES as usize],
}

thread_local! {
    static READ: RefCell<Read> = const { RefCell::new(Read { subscription: 0, newest: [0; LANES as usize] }) };
}

/// Reads the newest state of a lane, whose lock the caller holds, by the active snapshot; `None` if it has none yet.
#[must_use]
pub fn newest(subscription: i32, lane: u16) -> Option<LaneState> {
    if let Some(table) = Table::Lane.for_reading() {
        return newest_in(&mut table.scan_protected(Order::Descending), subscription, lane);
    }
    let arguments = [subscription.into_datum(), (lane as i16).into_datum()];
    let rows = NEWEST.execute(&arguments, Access::Read, 1);
    let row = rows.iter().next()?;
    let values = std::array::from_fn(|column| {
        let column = i32::try_from(column).ok()?.checked_sub(BEFORE_STATE).filter(|column| *column > 0)?;
        row.datum(column)
    });
    state_of(&values)
}

/// Whether the active snapshot sees this state of a lane, whose lock the caller holds.
#[must_use]
pub fn is_seen(subscription: i32, lane: u16, state: &LaneState) -> bool {
    if let Some(table) = Table::Lane.for_reading() {
        let mut scan = table.scan_protected(Order::Descending);
        scan.restart([
            Condition::integer(1, subscription),
            Condition::smallint(2, lane as i16),
            Condition::above(3, state.seq - 1),
        ]);
        return scan.next_row::<COLUMNS>().is_some() && scan.is_row_seen();
    }
    let arguments = [subscription.into_datum(), (lane as i16).into_datum()];
    let rows = NEWEST.execute(&arguments, Access::Read, 1);
    rows.iter().next().and_then(|row| row.get::<i64>(1)) == Some(state.seq)
}

/// The newest state by a scan in descending order.
#[must_use]
pub fn newest_in(scan: &mut Scan<'_, 3>, subscription: i32, lane: u16) -> Option<LaneState> {
    // An index page holds hundreds of states of a lane, and a scan looks at all of them on a page that can be wanted.
    let known = READ.with_borrow(|read| {
        let known = read.newest.get(usize::from(lane)).filter(|_| read.subscription == subscription);
        known.copied().unwrap_or(0)
    });
    let mut after = |seq: i64| {
        let conditions = [
            Condition::integer(1, subscription),
            Condition::smallint(2, lane as i16),
            Condition::above(3, seq),
        ];
        scan.restart(conditions);
        scan.next_row::<COLUMNS>().and_then(|row| state_of(&row))
    };
    let found = after(known.saturating_sub(1)).or_else(|| if known > 1 { after(0) } else { None });
    READ.with_borrow_mut(|read| {
        if read.subscription != subscription {
            *read = Read { subscription, newest: [0; LANES as usize] };
        }
        if let Some(newest) = read.newest.get_mut(usize::from(lane)) {
            *newest = found.map_or(0, |state| state.seq);
        }
    });
    found
}

/// The state in a row of the table.
fn state_of(row: &[Option<pg_sys::Datum>; COLUMNS]) -> Option<LaneState> {
    let bigint = |column: usize| row[column].map(|value| value.value() as i64);
    let integer = |column: usize| row[column].map(|value| value.value() as i32);
    // SAFETY: the column has this type.
    let token = row[5].and_then(|value| unsafe { pgrx::Uuid::from_datum(value, false) });
    let lease = token.and_then(|token| {
        Some(Lease {
            token: u128::from_be_bytes(*token.as_bytes()),
            upto: bigint(6)?,
            count: integer(7)?.unsigned_abs(),
            expires_at: compat::unix_micros(bigint(8)?),
        })
    });
    Some(LaneState {
        seq: bigint(2)?,
        upto: bigint(3)?,
        batch_limit: integer(4)?.unsigned_abs(),
        lease,
        suspect_upto: bigint(9)?,
    })
}

/// Stores the next state of a lane.
pub fn insert(subscription: i32, lane: u16, state: &LaneState) {
    let lease = state.lease;
    let token = lease.map(|lease| pgrx::Uuid::from_bytes(lease.token.to_be_bytes()));
    let row: [Option<pg_sys::Datum>; COLUMNS] = [
        subscription.into_datum(),
        (lane as i16).into_datum(),
        state.seq.into_datum(),
        state.upto.into_datum(),
        i32::try_from(state.batch_limit).unwrap_or(i32::MAX).into_datum(),
        token.into_datum(),
        lease.map(|lease| lease.upto).into_datum(),
        lease.map(|lease| i32::try_from(lease.count).unwrap_or(i32::MAX)).into_datum(),
        lease.map(|lease| pg_sys::Datum::from(compat::pg_timestamp(lease.expires_at))),
        state.suspect_upto.into_datum(),
    ];
    let statement = mistakes::lane_insert(&INSERT);
    match Table::Lane.for_inserting().filter(|_| std::ptr::eq(statement, &INSERT)) {
        Some(table) => table.insert(row),
        None => drop(statement.execute(&row, Access::Write, 0)),
    }
}
