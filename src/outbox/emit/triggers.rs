//! Owns the triggers on `outbox.events`, which check every row, whichever way it is inserted or changed.
//!
//! Runs in: client backends, and the relay when it reports refusals.

use std::cell::Cell;
use std::time::Duration;

use event_outbox_policy::delivery::attempts;
use event_outbox_policy::delivery::error_class::ErrorClass;
use event_outbox_policy::event::draft::Draft;
use pgrx::prelude::*;

use super::additions::Trace;
use super::{additions, backlog, invalid, schemas, sequences, topic_grants};
use crate::outbox::relay::registration;
use crate::outbox::table::{EVENTS, EVENTS_ID_SEQ};
use crate::pg::backend;
use crate::pg::compat;
use crate::pg::function::{self, Arguments, sql_function};
use crate::pg::spi::Row;
use crate::pg::trigger::firing;
use crate::pg::user_context::{Owner, UserContext};
use crate::pg::user_error::UserError;
use crate::settings::events;

sql_function!(outbox_before_insert, pg_finfo_outbox_before_insert, before_insert);
sql_function!(outbox_check_event, pg_finfo_outbox_check_event, check_event);
sql_function!(outbox_after_retiming, pg_finfo_outbox_after_retiming, retry_time_changed);
sql_function!(outbox_count_attempt, pg_finfo_outbox_count_attempt, count_attempt);

thread_local! {
    /// The last id that the sequence had assigned when the statement began. The statement's own ids are
    /// higher.
    static LAST_ASSIGNED: Cell<i64> = const { Cell::new(0) };
}

/// Trigger before each INSERT statement: assigns the transaction's id before the first event id. The relay's
/// search relies on that order (see `event_outbox_policy::reading::floor`).
fn before_insert(_arguments: &Arguments) -> Option<pg_sys::Datum> {
    announce();
    LAST_ASSIGNED.set(last_assigned().unwrap_or(0));
    Some(pg_sys::Datum::from(0_usize))
}

/// Prepares the transaction for new events. `emit()` calls this too, because triggers need not fire.
pub fn announce() {
    // SAFETY: in a transaction; this assigns its id if it has none.
    unsafe { pg_sys::GetTopTransactionId() };
    registration::wake_at_commit();
}

/// The last id that the sequence assigned.
fn last_assigned() -> Option<i64> {
    let sequence = EVENTS_ID_SEQ.oid();
    if sequence == pg_sys::InvalidOid {
        return None;
    }
    // A user who may insert need not have a right on the sequence.
    let _owner = UserContext::switch_to(Owner::of(EVENTS));
    // SAFETY: in a transaction; the function takes a sequence's oid, and NULL means never called.
    unsafe { pgrx::direct_function_call(pg_sys::pg_sequence_last_value, &[sequence.into_datum()]) }
}

/// Trigger before each inserted or changed row: rejects values that Kafka would never accept and, in a new
/// row, a topic that the current user may not emit to. It checks rows from `emit()` again, because a trigger
/// of the owner may have changed them.
fn check_event(arguments: &Arguments) -> Option<pg_sys::Datum> {
    let firing = firing(arguments);
    let is_change = firing.tg_event & pg_sys::TRIGGER_EVENT_OPMASK == pg_sys::TRIGGER_EVENT_UPDATE;
    let tuple = if is_change { firing.tg_newtuple } else { with_additions(firing) };
    let row = Row::of_trigger(firing, tuple);
    let topic: Option<&str> = row.named(c"topic");
    invalid::check(&Draft {
        topic,
        partition: row.named(c"partition"),
        key_bytes: row.length(c"key"),
        payload_bytes: row.length(c"payload"),
        headers: row.text(c"headers"),
        event_type_bytes: row.length(c"event_type"),
        content_type: row.named(c"content_type"),
        emitted_at: row.named::<i64>(c"emitted_at").map(compat::unix_micros),
    });
    // Only operators may change events, so an update needs no topic grant.
    if is_change {
        return Some(pg_sys::Datum::from(tuple));
    }
    backlog::count();
    let owner = Owner::of(EVENTS);
    topic_grants::check(topic.unwrap_or_default(), owner);
    let id = row.named(c"id").unwrap_or(0);
    check_id(id, owner);
    let tuple = encoded(&row, topic.unwrap_or_default()).unwrap_or(tuple);
    let row = Row::of_trigger(firing, tuple);
    Some(pg_sys::Datum::from(numbered(&row, topic.unwrap_or_default(), id).unwrap_or(tuple)))
}

/// The row with its payload as the topic's schema has it, if the topic is bound to one. What the relay inserts was checked
/// when it was emitted.
fn encoded(row: &Row, topic: &str) -> Option<pg_sys::HeapTuple> {
    if !additions::are_of_session() {
        return None;
    }
    let payload = row.value(c"payload");
    let encoded = schemas::apply(topic, row.named(c"event_type"), payload, row.named(c"content_type"))?;
    let new = Some(encoded.payload);
    if new.map(pg_sys::Datum::value) == payload.map(pg_sys::Datum::value) {
        return None;
    }
    Some(row.with(&[(c"payload", new), (c"content_type", encoded.content_type.into_datum())]))
}

/// The row with its number, if its topic is numbered. An id that this statement has drawn is drawn again: ids have the order
/// of numbers.
fn numbered(row: &Row, topic: &str, id: i64) -> Option<pg_sys::HeapTuple> {
    if !additions::are_of_session() {
        return None;
    }
    let headers = sequences::to_headers(topic, row.value(c"key"), row.value(c"headers"))?;
    let is_drawn = id > LAST_ASSIGNED.get();
    let id = if is_drawn { compat::next_value(EVENTS_ID_SEQ.existing()) } else { id };
    Some(row.with(&[(c"headers", headers), (c"id", id.into_datum())]))
}

/// The new row, with the headers that the session adds.
fn with_additions(firing: &pg_sys::TriggerData) -> pg_sys::HeapTuple {
    let tuple = firing.tg_trigtuple;
    if !additions::are_on() || !additions::are_of_session() {
        return tuple;
    }
    let row = Row::of_trigger(firing, tuple);
    let own = row.value(c"headers");
    let headers = additions::to_headers(own, &Trace::default());
    if headers.map(pg_sys::Datum::value) == own.map(pg_sys::Datum::value) {
        return tuple;
    }
    row.with(&[(c"headers", headers)])
}

/// Checks the id of a new row. The relay may have passed an id that somebody chose, so it reads again. An id
/// that the sequence has not reached would make a later event fail, so only the owner, who can also set the
/// sequence, may choose it.
fn check_id(id: i64, owner: Owner) {
    if id <= LAST_ASSIGNED.get() {
        registration::reread_at_commit();
        return;
    }
    if !owner.is_matched_by(backend::user()) && last_assigned().is_none_or(|last| id > last) {
        UserError {
            code: PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            message: format!("permission denied to choose event id {id}"),
            detail: "The sequence will assign this id to a later event.".into(),
            hint: "Omit the column id; the sequence assigns it.".into(),
        }
        .raise();
    }
}

/// Trigger after each statement that sets the time of the next attempt: the relay still has the old time.
fn retry_time_changed(_arguments: &Arguments) -> Option<pg_sys::Datum> {
    registration::reread_at_commit();
    Some(pg_sys::Datum::from(0_usize))
}

/// Trigger before an update that reports a refusal: counts the attempt and sets the time of the next one.
/// After the last attempt there is no next time, and the triggers in `sql/outbox/dead_letters.sql` move the
/// event to the dead letters.
fn count_attempt(arguments: &Arguments) -> Option<pg_sys::Datum> {
    let firing = firing(arguments);
    let before = Row::of_trigger(firing, firing.tg_trigtuple);
    let after = Row::of_trigger(firing, firing.tg_newtuple);
    let class = after.named(c"error_class").and_then(ErrorClass::parse);
    let is_refusal = class.is_none_or(ErrorClass::is_refusal);
    let attempts = before.named::<i32>(c"attempts").unwrap_or(0).saturating_add(is_refusal.into());
    let now = crate::pg::now();
    let first = before.named::<i64>(c"first_refused_at").unwrap_or(compat::pg_timestamp(now));
    let since_first = now.saturating_sub(compat::unix_micros(first));
    let refusal = attempts::Refusal {
        attempts,
        class,
        since_first: Duration::from_micros(u64::try_from(since_first).unwrap_or(0)),
    };
    let next = (!refusal.is_last(events::max_attempts(refusal.class), events::grace_period())).then(|| {
        let (base, cap) = events::retry_backoff();
        let delay = attempts::delay(attempts.unsigned_abs(), base, cap, function::random());
        now.saturating_add(i64::try_from(delay.as_micros()).unwrap_or(i64::MAX))
    });
    let tuple = after.with(&[
        (c"attempts", attempts.into_datum()),
        (c"next_attempt_at", next.map(|time| pg_sys::Datum::from(compat::pg_timestamp(time)))),
        (c"first_refused_at", Some(pg_sys::Datum::from(first))),
    ]);
    // The refusal may be reported by hand, and the relay must learn the new time.
    registration::wake_at_commit();
    Some(pg_sys::Datum::from(tuple))
}
