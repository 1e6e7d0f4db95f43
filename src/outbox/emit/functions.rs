//! Owns `outbox.emit()` and `outbox.emit_bytes()`, which check an event and store it in the caller's
//! transaction.
//!
//! Runs in: client backends.

use event_outbox_policy::event::dates::Dates;
use event_outbox_policy::event::draft::{Draft, Invalid, JSON};
use pgrx::prelude::*;

use super::additions::Trace;
use super::append::{self, Table};
use super::rights::{self, First};
use super::{
    additions, backlog, idempotency, invalid, naming, options, scheduled, schemas, topic_grants, triggers,
};
use crate::pg::function::{Arguments, new_uuid, sql_function};
use crate::pg::spi::{self, Access, Statement};
use crate::pg::user_context::UserContext;
use crate::pg::user_error::UserError;
use crate::pg::{compat, varlena};
use crate::settings::events;

/// Used if [`Table::append`] declines. The parameters are [`append::Values`].
static INSERT: Statement = Statement::new(
    c"INSERT INTO outbox.events \
      (event_id, emitted_at, topic, partition, key, payload, headers, event_type, content_type) \
      VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    &append::TYPES,
);

sql_function!(outbox_emit, pg_finfo_outbox_emit, emit);
sql_function!(outbox_emit_bytes, pg_finfo_outbox_emit_bytes, emit_bytes);
sql_function!(outbox_emit_further, pg_finfo_outbox_emit_further, emit_further);
sql_function!(outbox_emit_bytes_further, pg_finfo_outbox_emit_bytes_further, emit_bytes_further);

fn emit(arguments: &Arguments) -> Option<pg_sys::Datum> {
    Some(store(&New {
        // text and bytea have the same storage format.
        payload: arguments.datum(1).map(json_of),
        content_type: Some(JSON),
        ..New::of(arguments)
    }))
}

fn emit_bytes(arguments: &Arguments) -> Option<pg_sys::Datum> {
    Some(store(&New { content_type: arguments.text(7), ..New::of(arguments) }))
}

fn emit_further(arguments: &Arguments) -> Option<pg_sys::Datum> {
    rights::require(arguments, First::Emit);
    Some(store(&New {
        payload: arguments.datum(1).map(json_of),
        content_type: Some(JSON),
        dates: options::dates(arguments, 7),
        idempotency_key: arguments.text(9),
        trace: Trace::of(arguments.text(10), arguments.text(11)),
        ..New::of(arguments)
    }))
}

fn emit_bytes_further(arguments: &Arguments) -> Option<pg_sys::Datum> {
    rights::require(arguments, First::EmitBytes);
    Some(store(&New {
        content_type: arguments.text(7),
        dates: options::dates(arguments, 8),
        idempotency_key: arguments.text(10),
        trace: Trace::of(arguments.text(11), arguments.text(12)),
        ..New::of(arguments)
    }))
}

/// An event as the caller passes it. Values of variable length are not copied.
struct New<'a> {
    topic: Option<&'a str>,
    payload: Option<pg_sys::Datum>,
    key: Option<pg_sys::Datum>,
    event_type: Option<pg_sys::Datum>,
    headers: Option<pg_sys::Datum>,
    event_id: Option<pgrx::Uuid>,
    partition: Option<i32>,
    content_type: Option<&'a str>,
    dates: Dates,
    idempotency_key: Option<&'a str>,
    trace: Trace<'a>,
}

impl<'a> New<'a> {
    /// Takes the arguments that both functions share.
    fn of(arguments: &'a Arguments) -> Self {
        Self {
            topic: arguments.text(0),
            payload: arguments.datum(1),
            key: arguments.datum(2),
            event_type: arguments.datum(3),
            headers: arguments.datum(4).map(json_of),
            event_id: arguments.uuid(5),
            partition: arguments.integer(6),
            content_type: None,
            dates: Dates::default(),
            idempotency_key: None,
            trace: Trace::default(),
        }
    }
}

/// Checks and inserts the event. Returns its `event_id`.
fn store(new: &New<'_>) -> pg_sys::Datum {
    let headers = additions::to_headers(new.headers, &new.trace);
    // SAFETY: arguments of variable length, alive until the call ends.
    let length = |value: Option<pg_sys::Datum>| value.map(|value| unsafe { varlena::length(value) });
    let check = |payload, content_type| {
        invalid::check(&Draft {
            topic: new.topic,
            partition: new.partition,
            key_bytes: length(new.key),
            payload_bytes: length(payload),
            // SAFETY: as above.
            headers: headers.map(|value| unsafe { varlena::text(value) }),
            event_type_bytes: length(new.event_type),
            content_type,
            emitted_at: None,
        });
    };
    check(new.payload, new.content_type);
    // SAFETY: as above.
    let event_type = new.event_type.map(|value| unsafe { varlena::text(value) });
    naming::check(event_type, new.topic.unwrap_or_default());
    let due = options::due(&new.dates);
    let events = Table::open();
    let owner = events.owner();
    topic_grants::check(new.topic.unwrap_or_default(), owner);
    let (mut payload, mut content_type) = (new.payload, new.content_type);
    let encoded = schemas::apply(new.topic.unwrap_or_default(), event_type, payload, content_type);
    if let Some(encoded) = encoded {
        (payload, content_type) = (Some(encoded.payload), Some(encoded.content_type));
        check(payload, content_type);
    }
    let event_id = new.event_id.unwrap_or_else(new_uuid);
    if let Some(key) = new.idempotency_key
        && let Some(first) = idempotency::claim(new.topic.unwrap_or_default(), key, event_id)
    {
        return first.into_datum().unwrap_or_else(|| pg_sys::Datum::from(0_usize));
    }
    if due.is_none() {
        backlog::check();
    }
    let event_id = event_id.into_datum();
    let values: append::Values = [
        event_id,
        Some(pg_sys::Datum::from(compat::pg_timestamp(crate::pg::now()))),
        new.topic.into_datum(),
        new.partition.into_datum(),
        new.key,
        payload,
        headers,
        new.event_type,
        // A tombstone has no content, and so no content type.
        payload.and(content_type.into_datum()),
    ];
    match due {
        Some(due) => {
            // Drawn here, because the relay waits for no session.
            let numbered = append::numbered(&values);
            let values = numbered.as_ref().unwrap_or(&values);
            scheduled::store(values, due, options::expiry(&new.dates));
        }
        None if new.dates.expires_at.is_some() => {
            options::insert(&values, options::expiry(&new.dates), &events)
        }
        None => insert(&events, &values),
    }
    event_id.unwrap_or_else(|| pg_sys::Datum::from(0_usize))
}

/// Inserts an event that is checked.
pub fn insert(events: &Table, values: &append::Values) {
    if !events.append(values) {
        // The table's triggers do the same, but need not fire in this session.
        triggers::announce();
        let _owner = UserContext::switch_to(events.owner());
        spi::connected(|| {
            INSERT.execute(values, Access::Write, 0);
        });
    }
}

/// A jsonb argument as JSON text. An ERROR, before the text is produced, if it would certainly be too large.
pub fn json_of(value: pg_sys::Datum) -> pg_sys::Datum {
    /// The maximum ratio of a jsonb's size to that of its text: a digit in an array takes twelve bytes as
    /// jsonb, and two as text.
    const MAX_RATIO: usize = 6;
    let limit = events::max_event_bytes();
    // SAFETY: an argument that is declared jsonb, alive until the call ends.
    unsafe {
        let bytes = varlena::length(value);
        if bytes / MAX_RATIO > limit {
            UserError::from(Invalid::JsonTooLarge { bytes, limit }).raise();
        }
        varlena::json_of(value)
    }
}
