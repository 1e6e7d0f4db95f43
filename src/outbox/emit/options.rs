//! Owns the dates of an event that its author gives: `deliver_at` and `expires_at`.
//!
//! Runs in: client backends.

use event_outbox_policy::event::dates::{Dates, InvalidDates};
use pgrx::prelude::*;

use super::append::{self, Values};
use super::triggers;
use crate::outbox::table::columns::Column;
use crate::pg::compat;
use crate::pg::function::Arguments;
use crate::pg::spi::{self, Access, Statement};
use crate::pg::user_context::UserContext;
use crate::pg::user_error::UserError;

/// The columns of an event that expires.
const COLUMNS: usize = Column::GIVEN.len() + 1;

/// Their types: the time of expiry is the last.
static TYPES: [pg_sys::Oid; COLUMNS] = append::with_time();

static INSERT: Statement = Statement::new(
    c"INSERT INTO outbox.events \
      (event_id, emitted_at, topic, partition, key, payload, headers, event_type, content_type, expires_at) \
      VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
    &TYPES,
);

/// The dates among the arguments: `deliver_at` is at this place, `expires_at` behind it.
pub fn dates(arguments: &Arguments, at: usize) -> Dates {
    let time = |at| arguments.datum(at).map(|date| compat::unix_micros(date.value() as i64));
    Dates { deliver_at: time(at), expires_at: time(at + 1) }
}

/// When the event is due, if that is not at once. An ERROR if a date is invalid.
pub fn due(dates: &Dates) -> Option<i64> {
    if *dates == Dates::default() {
        return None;
    }
    dates.due(crate::pg::now()).unwrap_or_else(|invalid| UserError::from(invalid).raise())
}

/// When the event expires, as it is stored.
pub fn expiry(dates: &Dates) -> Option<pg_sys::Datum> {
    dates.expires_at.map(|date| pg_sys::Datum::from(compat::pg_timestamp(date)))
}

/// Inserts an event that expires. The fast path leaves that column null.
pub fn insert(values: &Values, expires_at: Option<pg_sys::Datum>, events: &append::Table) {
    // The table's triggers do the same, but need not fire in this session.
    triggers::announce();
    let mut all = [expires_at; COLUMNS];
    all[..values.len()].copy_from_slice(values);
    let _owner = UserContext::switch_to(events.owner());
    spi::connected(|| {
        INSERT.execute(&all, Access::Write, 0);
    });
}

impl From<InvalidDates> for UserError {
    fn from(invalid: InvalidDates) -> Self {
        let code = match invalid {
            InvalidDates::OutOfRange(_) => PgSqlErrorCode::ERRCODE_DATETIME_FIELD_OVERFLOW,
            InvalidDates::ExpiresBeforeDue => PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        };
        Self { code, message: invalid.message(), detail: invalid.detail(), hint: invalid.hint() }
    }
}
