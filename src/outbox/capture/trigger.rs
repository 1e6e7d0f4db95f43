//! Owns `outbox.capture_changes()`, which the triggers of captured tables call.
//!
//! It acts as the user who writes, as every trigger does: converting values may run code of others, such as casts. Only the
//! right to the topic is that of the captured table's owner.
//!
//! Runs in: client backends, and workers that write to captured tables.

use event_outbox_policy::event::capture::change::{self, Update};
use event_outbox_policy::event::capture::definition::Operation;
use pgrx::prelude::*;

use super::cache::{self, Capture};
use super::event::Change;
use super::row::{self, Row};
use super::statement;
use crate::outbox::emit::append::Table;
use crate::outbox::emit::{backlog, functions, topic_grants};
use crate::pg::function::{Arguments, sql_function};
use crate::pg::trigger::firing;

sql_function!(outbox_capture_changes, pg_finfo_outbox_capture_changes, capture_changes);

fn capture_changes(arguments: &Arguments) -> Option<pg_sys::Datum> {
    let firing = firing(arguments);
    // SAFETY: a firing trigger is described.
    let trigger = unsafe { &*firing.tg_trigger };
    if firing.tg_event & pg_sys::TRIGGER_EVENT_TIMINGMASK != pg_sys::TRIGGER_EVENT_AFTER {
        ereport!(
            ERROR,
            PgSqlErrorCode::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
            "outbox.capture_changes() must be fired after the change"
        );
    }
    let capture = cache::of_trigger(firing.tg_relation, trigger);
    let operation = match firing.tg_event & pg_sys::TRIGGER_EVENT_OPMASK {
        pg_sys::TRIGGER_EVENT_INSERT => Operation::Insert,
        pg_sys::TRIGGER_EVENT_UPDATE => Operation::Update,
        pg_sys::TRIGGER_EVENT_DELETE => Operation::Delete,
        _ => Operation::Truncate,
    };
    let is_for_rows = firing.tg_event & pg_sys::TRIGGER_EVENT_ROW != 0;
    if !is_for_rows && operation != Operation::Truncate {
        statement::emit(&capture, firing, operation);
        return Some(pg_sys::Datum::from(0_usize));
    }
    let (old, new) = rows(firing, operation);
    let update = match (&old, &new) {
        (Some(old), Some(new)) => row::compare(&capture.key, &capture.columns, old, new),
        _ => Update::Nothing,
    };
    emit(&capture, firing.tg_relation, operation, update, old, new);
    Some(pg_sys::Datum::from(0_usize))
}

/// The row before and after the change.
fn rows(firing: &pg_sys::TriggerData, operation: Operation) -> (Option<Row>, Option<Row>) {
    // SAFETY: the slots hold the rows of the change until the trigger returns.
    unsafe {
        match operation {
            Operation::Insert => (None, Some(Row::of_slot(firing.tg_trigslot))),
            Operation::Update => {
                (Some(Row::of_slot(firing.tg_trigslot)), Some(Row::of_slot(firing.tg_newslot)))
            }
            Operation::Delete => (Some(Row::of_slot(firing.tg_trigslot)), None),
            Operation::Truncate => (None, None),
        }
    }
}

fn emit(
    capture: &Capture,
    relation: pg_sys::Relation,
    operation: Operation,
    update: Update,
    old: Option<Row>,
    new: Option<Row>,
) {
    let actions = change::actions(operation, update, capture.definition.style);
    if actions[0].is_none() {
        return;
    }
    let events = Table::open();
    topic_grants::check_of(capture.owner(relation).role(), &capture.definition.topic, events.owner());
    let _format = capture.format();
    for action in actions.into_iter().flatten() {
        backlog::check();
        functions::insert(&events, &Change::of(capture, action, update, old, new).to_values());
    }
}
