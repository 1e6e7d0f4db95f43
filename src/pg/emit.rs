//! `outbox.emit()` and `outbox.emit_bytes()`: an event is checked and stored in the caller's transaction.

use std::cell::Cell;
use std::ffi::CStr;

use event_outbox_domain::event::Draft;
use event_outbox_domain::json;
use pgrx::prelude::*;

use super::acting::Acting;
use super::append::{self, Table};
use super::errors::Complaint;
use super::functions::{Arguments, new_uuid, sql_function};
use super::spi::{self, Access, Statement};
use super::{compat, settings, topic_rights};

/// Where the table has been given more than the extension gave it. Its values are those of [`append::Values`].
static INSERT: Statement = Statement::new(
    c"INSERT INTO outbox.events \
      (event_id, emitted_at, topic, partition, key, payload, headers, event_type, content_type) \
      VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    &append::TYPES,
);

const JSON: &str = "application/json";

sql_function!(outbox_emit, pg_finfo_outbox_emit, emit);
sql_function!(outbox_emit_bytes, pg_finfo_outbox_emit_bytes, emit_bytes);

fn emit(arguments: &Arguments) -> Option<pg_sys::Datum> {
    let payload = arguments.datum(1).map(|datum| jsonb_text(datum).into_bytes());
    Some(store(&New {
        topic: arguments.text(0),
        payload: payload.as_deref(),
        key: arguments.text(2).map(str::as_bytes),
        event_type: arguments.text(3),
        headers: arguments.datum(4).map(jsonb_text),
        event_id: arguments.uuid(5),
        partition: arguments.integer(6),
        content_type: Some(JSON),
    }))
}

fn emit_bytes(arguments: &Arguments) -> Option<pg_sys::Datum> {
    Some(store(&New {
        topic: arguments.text(0),
        payload: arguments.bytes(1),
        key: arguments.bytes(2),
        event_type: arguments.text(3),
        headers: arguments.datum(4).map(jsonb_text),
        event_id: arguments.uuid(5),
        partition: arguments.integer(6),
        content_type: arguments.text(7),
    }))
}

/// An event as its author gives it.
struct New<'a> {
    topic: Option<&'a str>,
    payload: Option<&'a [u8]>,
    key: Option<&'a [u8]>,
    event_type: Option<&'a str>,
    headers: Option<String>,
    event_id: Option<pgrx::Uuid>,
    partition: Option<i32>,
    content_type: Option<&'a str>,
}

/// Checks and inserts the event; gives its `event_id`.
fn store(new: &New<'_>) -> pg_sys::Datum {
    check(&Draft {
        topic: new.topic,
        partition: new.partition,
        key: new.key,
        payload_bytes: new.payload.map(<[u8]>::len),
        headers: new.headers.as_deref(),
        event_type: new.event_type,
        emitted_at: None,
    });
    let events = Table::open();
    let owner = events.owner();
    topic_rights::check(new.topic.unwrap_or_default(), owner);
    let event_id = new.event_id.unwrap_or_else(new_uuid).into_datum();
    let values: append::Values = [
        event_id,
        Some(pg_sys::Datum::from(compat::pg_timestamp(super::now()))),
        new.topic.into_datum(),
        new.partition.into_datum(),
        new.key.into_datum(),
        new.payload.into_datum(),
        new.headers.as_deref().into_datum(),
        new.event_type.into_datum(),
        // A tombstone has no content whose type could be told.
        new.payload.and(new.content_type).into_datum(),
    ];
    if !events.append(&values) {
        let _owner = Acting::begin(owner);
        spi::connected(|| {
            let _checked = Checked::mark();
            INSERT.execute(&values, Access::Write, 0);
        });
    }
    event_id.unwrap_or_else(|| pg_sys::Datum::from(0_usize))
}

/// Raises an error if the event could never be accepted by Kafka.
pub fn check(draft: &Draft<'_>) {
    if let Err(invalid) = draft.check(settings::max_event_bytes()) {
        Complaint::from(invalid).raise();
    }
}

thread_local! {
    static CHECKED: Cell<bool> = const { Cell::new(false) };
}

/// While it lives, rows that are inserted have been checked already.
struct Checked;

impl Checked {
    fn mark() -> Self {
        CHECKED.set(true);
        Self
    }
}

impl Drop for Checked {
    fn drop(&mut self) {
        CHECKED.set(false);
    }
}

/// Whether the row that is being inserted comes from here, checked.
#[must_use]
pub fn is_checked() -> bool {
    CHECKED.get()
}

/// A jsonb value as compact JSON text.
pub fn jsonb_text(datum: pg_sys::Datum) -> String {
    // SAFETY: the argument is declared jsonb. Detoasting gives a whole value in the current memory
    // context, and its text is a C string there, in the database's encoding, which is UTF-8.
    unsafe {
        let value = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast::<pg_sys::Jsonb>();
        let length = pgrx::varsize_any(value.cast());
        let text = pg_sys::JsonbToCString(std::ptr::null_mut(), &raw mut (*value).root, length as i32);
        json::compact(&CStr::from_ptr(text).to_string_lossy())
    }
}
