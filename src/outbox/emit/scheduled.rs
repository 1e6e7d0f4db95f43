//! Owns scheduled events as sessions see them: they are stored in `outbox.scheduled`, and can be cancelled. At the commit the
//! relay is told of a date that is earlier than those that it knows.
//!
//! Runs in: client backends.

use std::cell::Cell;
use std::ffi::c_void;

use event_outbox_policy::event::draft::Draft;
use pgrx::prelude::*;

use super::append::{self, Values};
use super::{invalid, rights, topic_grants};
use crate::outbox::relay::registration;
use crate::outbox::table::columns::Column;
use crate::outbox::table::{EVENTS, SCHEDULED};
use crate::pg::compat;
use crate::pg::function::{Arguments, sql_function};
use crate::pg::spi::{self, Access, Row, Statement};
use crate::pg::trigger::firing;
use crate::pg::user_context::{Owner, UserContext};

sql_function!(outbox_check_scheduled, pg_finfo_outbox_check_scheduled, check_scheduled);
sql_function!(outbox_cancel, pg_finfo_outbox_cancel, cancel);

/// The columns that `emit()` fills.
const COLUMNS: usize = Column::GIVEN.len() + 2;

/// Their types.
static TYPES: [pg_sys::Oid; COLUMNS] = append::with_time();

static INSERT: Statement = Statement::new(
    c"INSERT INTO outbox.scheduled \
      (event_id, emitted_at, topic, partition, key, payload, headers, event_type, content_type, \
       deliver_at, expires_at) \
      VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
    &TYPES,
);

static TOPICS: Statement = Statement::new(
    c"SELECT s.topic FROM outbox.scheduled AS s WHERE s.event_id OPERATOR(pg_catalog.=) $1",
    &[pg_sys::UUIDOID],
);

static DELETE: Statement = Statement::new(
    c"DELETE FROM outbox.scheduled AS s WHERE s.event_id OPERATOR(pg_catalog.=) $1",
    &[pg_sys::UUIDOID],
);

thread_local! {
    /// The earliest date that the current transaction has stored, in microseconds since 1970; `NONE` if it has stored none.
    static EARLIEST: Cell<i64> = const { Cell::new(NONE) };
}

const NONE: i64 = i64::MAX;

/// Registers for the ends of this process' transactions; inherited by every backend.
pub fn init() {
    // SAFETY: the callback lives as long as the library, which is never unloaded.
    unsafe { pg_sys::RegisterXactCallback(Some(at_transaction_end), std::ptr::null_mut()) }
}

/// Stores an event that is due later.
pub(super) fn store(values: &Values, due: i64, expires_at: Option<pg_sys::Datum>) {
    // The trigger does the same, but need not fire in this session.
    note(due);
    let mut all = [expires_at; COLUMNS];
    all[..values.len()].copy_from_slice(values);
    all[values.len()] = Some(pg_sys::Datum::from(compat::pg_timestamp(due)));
    let _owner = UserContext::switch_to(Owner::of(SCHEDULED));
    spi::connected(|| {
        INSERT.execute(&all, Access::Write, 0);
    });
}

/// The relay must learn of this date at commit.
fn note(due: i64) {
    EARLIEST.set(EARLIEST.get().min(due));
}

/// Trigger before each row of `outbox.scheduled` that is inserted or changed: rejects what Kafka would never accept and, in a
/// new row, a topic that the current user may not emit to.
fn check_scheduled(arguments: &Arguments) -> Option<pg_sys::Datum> {
    let firing = firing(arguments);
    let is_change = firing.tg_event & pg_sys::TRIGGER_EVENT_OPMASK == pg_sys::TRIGGER_EVENT_UPDATE;
    let tuple = if is_change { firing.tg_newtuple } else { firing.tg_trigtuple };
    let row = Row::of_trigger(firing, tuple);
    let topic: Option<&str> = row.named(c"topic");
    let due = row.named::<i64>(c"deliver_at").map(compat::unix_micros);
    invalid::check(&Draft {
        topic,
        partition: row.named(c"partition"),
        key_bytes: row.length(c"key"),
        payload_bytes: row.length(c"payload"),
        headers: row.text(c"headers"),
        event_type_bytes: row.length(c"event_type"),
        content_type: row.named(c"content_type"),
        // It becomes the event's time.
        emitted_at: due,
    });
    if !is_change {
        topic_grants::check(topic.unwrap_or_default(), Owner::of(EVENTS));
    }
    due.into_iter().for_each(note);
    Some(pg_sys::Datum::from(tuple))
}

/// Deletes the scheduled events with this `event_id`. Returns whether there were any.
fn cancel(arguments: &Arguments) -> Option<pg_sys::Datum> {
    rights::require_either(arguments, "cancel");
    let event_id = [arguments.datum(0)];
    let owner = Owner::of(SCHEDULED);
    let topics: Vec<String> = {
        let _owner = UserContext::switch_to(owner);
        spi::connected(|| {
            let rows = TOPICS.execute(&event_id, Access::Write, 0);
            rows.iter().filter_map(|row| row.get(1)).collect()
        })
    };
    topics.iter().for_each(|topic| topic_grants::check(topic, Owner::of(EVENTS)));
    let is_cancelled = !topics.is_empty() && delete(owner, event_id) > 0;
    is_cancelled.into_datum()
}

fn delete(owner: Owner, event_id: [Option<pg_sys::Datum>; 1]) -> usize {
    let _owner = UserContext::switch_to(owner);
    spi::connected(|| DELETE.execute(&event_id, Access::Write, 0).len())
}

/// Runs at every end of a transaction in every backend, after the rows have become visible. Nothing here may fail: an ERROR
/// would bring the cluster down.
#[pg_guard]
unsafe extern "C-unwind" fn at_transaction_end(event: pg_sys::XactEvent::Type, _argument: *mut c_void) {
    use pg_sys::XactEvent::{XACT_EVENT_ABORT, XACT_EVENT_COMMIT, XACT_EVENT_PREPARE};
    match event {
        XACT_EVENT_COMMIT if EARLIEST.get() != NONE => registration::tell_due(EARLIEST.replace(NONE)),
        // COMMIT PREPARED has the relay look for everything.
        XACT_EVENT_ABORT | XACT_EVENT_PREPARE => EARLIEST.set(NONE),
        _ => {}
    }
}
