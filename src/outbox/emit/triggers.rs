//! The triggers of `outbox.events`: what holds for a row however it comes in.

use std::cell::Cell;
use std::time::Duration;

use event_outbox_policy::delivery::attempts;
use event_outbox_policy::delivery::error_class::ErrorClass;
use event_outbox_policy::event::draft::Draft;
use pgrx::prelude::*;

use super::{invalid, topic_grants};
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
    /// The last id that the sequence had given away when the statement began. What the statement draws itself is above it.
    static GIVEN_AWAY: Cell<i64> = const { Cell::new(0) };
}

/// Before each statement that inserts: takes the transaction's id now, before the first event id is
/// drawn. The relay's search rests on that order (see `event_outbox_policy::reading::floor`).
fn before_insert(_arguments: &Arguments) -> Option<pg_sys::Datum> {
    announce();
    GIVEN_AWAY.set(given_away().unwrap_or(0));
    Some(pg_sys::Datum::from(0_usize))
}

/// What `emit()` does as well, where triggers may not fire.
pub fn announce() {
    // SAFETY: in a transaction; assigns its id if it has none.
    unsafe { pg_sys::GetTopTransactionId() };
    registration::wake_at_commit();
}

/// The last id that the sequence gave away.
fn given_away() -> Option<i64> {
    let sequence = EVENTS_ID_SEQ.oid();
    if sequence == pg_sys::InvalidOid {
        return None;
    }
    // Who may insert need not have a right on the sequence.
    let _owner = UserContext::switch_to(Owner::of(EVENTS));
    // SAFETY: in a transaction; the function takes a sequence's oid, and NULL means never called.
    unsafe { pgrx::direct_function_call(pg_sys::pg_sequence_last_value, &[sequence.into_datum()]) }
}

/// Before each inserted or changed row: refuses what Kafka would never accept, and in a new one topics that the current
/// user may not emit to. Also in a row that `emit()` has checked: a trigger of the owner's may have changed it.
fn check_event(arguments: &Arguments) -> Option<pg_sys::Datum> {
    let firing = firing(arguments);
    let is_change = firing.tg_event & pg_sys::TRIGGER_EVENT_OPMASK == pg_sys::TRIGGER_EVENT_UPDATE;
    let tuple = if is_change { firing.tg_newtuple } else { firing.tg_trigtuple };
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
    // To change what others have emitted is an operator's right.
    if !is_change {
        let owner = Owner::of(EVENTS);
        topic_grants::check(topic.unwrap_or_default(), owner);
        check_id(row.named(c"id").unwrap_or(0), owner);
    }
    Some(pg_sys::Datum::from(tuple))
}

/// Of a new row: the relay may be past an id that somebody chose; and one that is yet to come would be missing when the
/// sequence comes to it, and another's event fail. Only the owner may take it, who sets the sequence, too.
fn check_id(id: i64, owner: Owner) {
    if id <= GIVEN_AWAY.get() {
        registration::reread_at_commit();
        return;
    }
    if !owner.is_matched_by(backend::user()) && given_away().is_none_or(|last| id > last) {
        UserError {
            code: PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            message: format!("permission denied to choose event id {id}"),
            detail: "The sequence has yet to give this id, to another event.".into(),
            hint: "Leave the column id out to have it set.".into(),
        }
        .raise();
    }
}

/// After each statement that sets the time of next attempts: the relay remembers the old one.
fn retry_time_changed(_arguments: &Arguments) -> Option<pg_sys::Datum> {
    registration::reread_at_commit();
    Some(pg_sys::Datum::from(0_usize))
}

/// Before an update that reports a refusal: counts the attempt and sets the time of the next. After the
/// last there is none, and the triggers in `sql/outbox/dead_letters.sql` take the event away.
fn count_attempt(arguments: &Arguments) -> Option<pg_sys::Datum> {
    let firing = firing(arguments);
    let before = Row::of_trigger(firing, firing.tg_trigtuple);
    let after = Row::of_trigger(firing, firing.tg_newtuple);
    let attempts = before.named::<i32>(c"attempts").unwrap_or(0).saturating_add(1);
    let now = crate::pg::now();
    let first = before.named::<i64>(c"first_refused_at").unwrap_or(compat::pg_timestamp(now));
    let since_first = now.saturating_sub(compat::unix_micros(first));
    let refusal = attempts::Refusal {
        attempts,
        class: after.named(c"error_class").and_then(ErrorClass::parse),
        since_first: Duration::from_micros(u64::try_from(since_first).unwrap_or(0)),
    };
    let next = (!refusal.is_last(events::max_attempts(), events::grace_period())).then(|| {
        let (base, cap) = events::retry_backoff();
        let delay = attempts::delay(attempts.unsigned_abs(), base, cap, function::random());
        now.saturating_add(i64::try_from(delay.as_micros()).unwrap_or(i64::MAX))
    });
    let tuple = after.with(&[
        (c"attempts", attempts.into_datum()),
        (c"next_attempt_at", next.map(|time| pg_sys::Datum::from(compat::pg_timestamp(time)))),
        (c"first_refused_at", Some(pg_sys::Datum::from(first))),
    ]);
    // Whoever reports the refusal, the relay has to know of the new date.
    registration::wake_at_commit();
    Some(pg_sys::Datum::from(tuple))
}
