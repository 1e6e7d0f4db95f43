//! `inbox.nack()`: gives an event back that this transaction has received and cannot handle.
//!
//! It then waits for another attempt, or is a dead letter. The later events of its order key that the transaction has received go
//! back behind it, as they must not overtake it; the function returns their positions, for the caller to leave them alone. If the
//! event dies, its key is open, and they stay received.

use std::time::Duration;

use event_outbox_policy::inbox::charge::Fate;
use event_outbox_policy::inbox::plan::MAX_WAITING;
use pgrx::prelude::*;

use super::charge::{How, charge};
use super::deliveries::{self, Origin, Waited};
use super::lane;
use super::open_log::OpenLog;
use super::refusals::{no_name, require_writable};
use super::stored::{Stored, lane_number};
use super::subscription::Subscription;
use crate::inbox::table::SUBSCRIPTION;
use crate::pg::backend;
use crate::pg::function::{Arguments, sql_function};
use crate::pg::snapshot::Snapshot;
use crate::pg::spi;
use crate::pg::user_context::{Owner, UserContext};
use crate::pg::user_error::UserError;

sql_function!(inbox_nack, pg_finfo_inbox_nack, nack);

/// The most bytes of an error that are stored.
const MAX_ERROR_BYTES: usize = 10_000;

fn nack(arguments: &Arguments) -> Option<pg_sys::Datum> {
    let name = arguments.text(0).unwrap_or_else(|| no_name().raise());
    let position = arguments.bigint(1).unwrap_or_else(|| not_received(name, None).raise());
    let error = arguments.text(2).map_or("no reason was given", beginning);
    let wait = arguments
        .interval(3)
        .map(|wait| Duration::from_micros(u64::try_from(wait.as_micros().max(0)).unwrap_or(u64::MAX)));
    require_writable("inbox.nack()");
    let caller = backend::user();
    let _owner = UserContext::switch_to(Owner::of(SUBSCRIPTION));
    let given_back = spi::connected(|| {
        let subscription = Subscription::named(name, caller);
        let origin = deliveries::origin(subscription.id, position);
        let origin = origin.unwrap_or_else(|| not_received(name, Some(position)).raise());
        let _snapshot = Snapshot::take_latest();
        give_back(&subscription, position, &origin, error, wait)
    });
    given_back.into_datum()
}

fn give_back(
    subscription: &Subscription,
    position: i64,
    origin: &Origin,
    error: &str,
    wait: Option<Duration>,
) -> Vec<i64> {
    if origin.is_given_back {
        return Vec::new();
    }
    let event = find(subscription, origin.lane, position, origin.waited);
    let event = event.unwrap_or_else(|| not_received(&subscription.name, Some(position)).raise());
    if event.is_skipped() && !subscription.is_replay {
        // A seek has skipped it meanwhile: it does not come back.
        deliveries::give_back(subscription.id, position);
        return Vec::new();
    }
    let room = lane::room_to_wait(subscription);
    let fate = charge(subscription, origin.lane, &event, How { error, wait, has_crashed: false });
    deliveries::give_back(subscription.id, position);
    if fate == Fate::Dead {
        return Vec::new();
    }
    let key = event.order_key(subscription);
    let mut given_back = Vec::new();
    for (later, waited) in &origin.later {
        let Some(event) = find(subscription, origin.lane, *later, *waited) else { continue };
        if key.is_some() && event.order_key(subscription) == key {
            event.park(subscription, origin.lane);
            deliveries::give_back(subscription.id, *later);
            given_back.push(*later);
        }
    }
    if given_back.len() + 1 > room {
        full(subscription, room).raise();
    }
    given_back
}

/// An event that was received: as it was in the log, or as it waited.
fn find(subscription: &Subscription, lane: u16, position: i64, waited: Option<Waited>) -> Option<Stored> {
    match waited {
        Some(waited) => Some(Stored::waited(waited.row)),
        None => OpenLog::of(subscription).event(lane_number(lane), position),
    }
}

fn beginning(text: &str) -> &str {
    let end = (0..=text.len().min(MAX_ERROR_BYTES)).rev().find(|at| text.is_char_boundary(*at));
    &text[..end.unwrap_or(0)]
}

fn full(subscription: &Subscription, room: usize) -> UserError {
    UserError {
        code: PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
        message: format!("too many events of subscription \"{}\" wait", subscription.name),
        detail: format!(
            "At most {MAX_WAITING} events wait for another attempt, or for an earlier one of their key; there is room for {room}."
        ),
        hint:
            "Roll back: the events are received again, and an event that fails alone is charged all the same."
                .into(),
    }
}

fn not_received(name: &str, position: Option<i64>) -> UserError {
    UserError {
        code: PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        message: "the event was not received in this transaction".into(),
        detail: format!(
            "It is position {} of subscription \"{}\".",
            position.map_or("NULL".into(), |position| position.to_string()),
            name.chars().take(100).collect::<String>()
        ),
        hint: "Give events back in the transaction that has received them. Those of a lease come back when it expires.".into(),
    }
}
