//! Owns the events that are passed to `event_store.append()` as a document.
//!
//! Runs in: client backends.

use std::collections::HashSet;

use pgrx::prelude::*;

use crate::pg::jsonb::{self, Part, Value};
use crate::pg::user_error::UserError;
use crate::pg::varlena;
use crate::settings::events;

/// The most events of one call.
const MOST_EVENTS: usize = 10_000;

/// The longest type of an event, in bytes.
const MAX_TYPE_BYTES: usize = 255;

/// An event to append. Values live as long as the call.
#[derive(Debug, Default)]
pub struct NewEvent<'a> {
    /// What has happened.
    pub event_type: &'a str,
    /// The content, as a jsonb.
    pub data: Option<pg_sys::Datum>,
    /// What else the caller says of it, as a jsonb.
    pub metadata: Option<pg_sys::Datum>,
    /// The id that the caller has chosen.
    pub id: Option<uuid::Uuid>,
}

/// Reads the events. An ERROR if there are none, or one of them is none.
///
/// # Safety
/// The document is a jsonb, and lives as long as the events.
#[must_use]
pub unsafe fn read<'a>(document: pg_sys::Datum) -> Vec<NewEvent<'a>> {
    let mut all: Vec<NewEvent<'a>> = Vec::new();
    // SAFETY: as promised by the caller.
    unsafe {
        jsonb::visit_objects(document, |part| {
            match part {
                Part::Begin if all.len() == MOST_EVENTS => refuse_many(),
                Part::Begin => all.push(NewEvent::default()),
                Part::Member(name, value) => {
                    let number = all.len();
                    if let Some(event) = all.last_mut() {
                        set(event, name, value, number);
                    }
                }
                Part::End => check(&all),
                Part::Stranger => refuse(all.len() + 1, "It is not an object.".into()),
            }
            true
        });
    }
    if all.is_empty() {
        UserError {
            code: PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            message: "there are no events to append".into(),
            detail: "The array of events is empty.".into(),
            hint: SHAPE.into(),
        }
        .raise();
    }
    require_different_ids(&all);
    all
}

const SHAPE: &str = "Pass an object such as {\"type\": \"opened\", \"data\": {}}, or an array of such objects. \
                     An event may also have \"metadata\", an object, and \"id\", a UUID.";

fn set<'a>(event: &mut NewEvent<'a>, name: &str, value: Value<'a>, number: usize) {
    match (name, value) {
        ("type", Value::Text(text)) => event.event_type = text,
        ("type", _) => refuse(number, "Its \"type\" is not a string.".into()),
        ("data", value) => event.data = value.document(),
        ("metadata" | "id", Value::Null) => {}
        ("metadata", Value::Object(value)) => event.metadata = Some(value),
        ("metadata", _) => refuse(number, "Its \"metadata\" is not an object.".into()),
        ("id", Value::Text(text)) => match uuid::Uuid::try_parse(text) {
            Ok(id) => event.id = Some(id),
            Err(_) => refuse(number, "Its \"id\" is not a UUID.".into()),
        },
        ("id", _) => refuse(number, "Its \"id\" is not a string.".into()),
        (other, _) => {
            let shown: String = other.chars().take(100).collect();
            refuse(number, format!("It has a member \"{shown}\", which an event does not have."))
        }
    }
}

/// Checks the last event, which is complete.
fn check(all: &[NewEvent<'_>]) {
    let Some(event) = all.last() else { return };
    match event.event_type.len() {
        0 => refuse(all.len(), "It has no \"type\".".into()),
        1..=MAX_TYPE_BYTES => {}
        bytes => refuse(
            all.len(),
            format!("Its \"type\" has {bytes} bytes; at most {MAX_TYPE_BYTES} are possible."),
        ),
    }
    let limit = events::max_event_bytes();
    // SAFETY: values that were made of the document.
    let bytes: usize = [event.data, event.metadata]
        .into_iter()
        .flatten()
        .map(|value| unsafe { varlena::length(value) })
        .sum();
    if bytes > limit {
        UserError {
            code: PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            message: format!("event {} to append is too large", all.len()),
            detail: format!("Its data and metadata have {bytes} bytes; the limit is {limit}."),
            hint: "Store large content elsewhere, or raise event_outbox.max_event_bytes.".into(),
        }
        .raise();
    }
}

fn require_different_ids(all: &[NewEvent<'_>]) {
    let mut seen = HashSet::new();
    let again = all.iter().filter_map(|event| event.id).find(|id| !seen.insert(*id));
    if let Some(id) = again {
        UserError {
            code: PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            message: "two of the events to append have the same id".into(),
            detail: format!("It is {id}."),
            hint: "Give each event an id of its own.".into(),
        }
        .raise();
    }
}

fn refuse_many() -> ! {
    UserError {
        code: PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
        message: "there are too many events to append".into(),
        detail: format!("One call appends at most {MOST_EVENTS} events."),
        hint: "Append them by several calls in one transaction.".into(),
    }
    .raise()
}

fn refuse(number: usize, detail: String) -> ! {
    UserError {
        code: PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        message: format!("event {number} to append is invalid"),
        detail,
        hint: SHAPE.into(),
    }
    .raise()
}
