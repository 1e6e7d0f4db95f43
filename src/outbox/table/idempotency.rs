//! Owns the tables of idempotency keys, and the period that says in which of them keys are stored now.
//!
//! Runs in: client backends and relays.

use event_outbox_policy::event::idempotency::{Former, Period, Table};
use pgrx::prelude::*;

use super::member as relation;
use crate::pg::catalog::Member;
use crate::pg::compat;
use crate::pg::spi::{Access, Row, Statement};
use crate::pg::user_context::{Owner, UserContext};

/// The tables of the keys.
const KEYS: [Member; 2] = [relation(c"idempotency_a"), relation(c"idempotency_b")];
/// The present period.
pub const PERIOD: Member = relation(c"idempotency_period");

static READ: Statement = Statement::new(
    c"SELECT p.number, p.began_at, p.former, p.closed_at FROM outbox.idempotency_period AS p",
    &[],
);

static WRITE: Statement = Statement::new(
    c"INSERT INTO outbox.idempotency_period AS p (number, began_at, former, closed_at) VALUES ($1, $2, $3, $4) \
      ON CONFLICT (only_one) DO UPDATE SET number = excluded.number, began_at = excluded.began_at, \
                                           former = excluded.former, closed_at = excluded.closed_at",
    &[pg_sys::INT8OID, pg_sys::TIMESTAMPTZOID, pg_sys::TEXTOID, pg_sys::TIMESTAMPTZOID],
);

/// A table of keys.
#[must_use]
pub const fn member(table: Table) -> Member {
    match table {
        Table::A => KEYS[0],
        Table::B => KEYS[1],
    }
}

/// The present period by the active snapshot, within [`spi::connected`](crate::pg::spi::connected).
#[must_use]
pub fn read_period() -> Period {
    stored_period().unwrap_or(Period::first(0))
}

/// The present period, if one is stored.
#[must_use]
pub fn stored_period() -> Option<Period> {
    let _owner = UserContext::switch_to(Owner::of(PERIOD));
    READ.execute(&[], Access::Read, 1).iter().next().and_then(period_of)
}

fn period_of(row: Row) -> Option<Period> {
    let time = |column| Some(compat::unix_micros(row.datum(column)?.value() as i64));
    let former = match row.get::<&str>(3)? {
        "open" => Former::Open,
        "closed" => Former::Closed(time(4)?),
        "expired" => Former::Expired,
        _ => Former::Empty,
    };
    Some(Period { number: row.get(1)?, began_at: time(2)?, former })
}

/// Stores the present period, within [`spi::connected`](crate::pg::spi::connected), as the owner of the table.
pub fn write_period(period: &Period) {
    let time = |micros| Some(pg_sys::Datum::from(compat::pg_timestamp(micros)));
    let (former, closed_at) = match period.former {
        Former::Open => ("open", None),
        Former::Closed(at) => ("closed", time(at)),
        Former::Expired => ("expired", None),
        Former::Empty => ("empty", None),
    };
    let values = [period.number.into_datum(), time(period.began_at), former.into_datum(), closed_at];
    WRITE.execute(&values, Access::Write, 0);
}
