//! Decodes a stored event for its receiver. Whatever its producer has written, this does not fail: what cannot be decoded is
//! NULL, and `decode_error` says why.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ffi::c_char;

use event_outbox_policy::inbox::attributes::{Attributes, headers_json};
use event_outbox_policy::inbox::structured::{self, Unfolded};
use event_outbox_policy::inbox::{jsonb, records};
use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;

use super::output::Output;
use super::stored::{self, HEADERS, KEY, Stored, VALUE};
use super::subscription::Subscription;
use crate::pg::compat::pg_timestamp;
use crate::pg::varlena;
use crate::schemas;
use crate::schemas::decode::{Awaited, Decoded};
use crate::settings::registry;

/// As much of a value as says by which schema it was written.
const WIRE_PREFIX: i32 = 6;

/// How much longer headers can become as JSON.
const LONGEST_ESCAPE: usize = 6;

/// Decodes one event after the other.
pub struct Decoder {
    /// What Postgres allocates for an event.
    memory: pgrx::PgMemoryContexts,
    plain: Plain,
}

/// Values that need no parser of Postgres.
struct Plain {
    /// Whether Postgres has text as JSON has it.
    is_utf8: bool,
    data: Vec<u8>,
    headers: Vec<u8>,
    /// What a schema has made of a value.
    document: Vec<u8>,
}

impl Default for Decoder {
    fn default() -> Self {
        // SAFETY: a plain question.
        let encoding = unsafe { pg_sys::GetDatabaseEncoding() };
        let is_utf8 = encoding == pg_sys::pg_enc::PG_UTF8 as i32;
        let plain = Plain { is_utf8, data: Vec::new(), headers: Vec::new(), document: Vec::new() };
        schemas::catalog::accept_changes();
        Self { memory: pgrx::PgMemoryContexts::new("inbox event"), plain }
    }
}

impl Decoder {
    /// Adds an event as a row of the type `inbox.event`.
    pub fn add(&mut self, output: &Output, event: &Stored, lease: Option<u128>) {
        // SAFETY: what is allocated for the event is copied into the output before it is freed.
        unsafe {
            self.memory.switch_to(|_| add(output, event, lease, &mut self.plain));
            self.memory.reset();
        }
    }
}

fn add(output: &Output, event: &Stored, lease: Option<u128>, plain: &mut Plain) {
    let packed = event.bytes(HEADERS).unwrap_or_default();
    let value = event.bytes(VALUE);
    let unfolded = unfold(packed, value);
    let packed = unfolded.as_ref().map_or(packed, |unfolded| &unfolded.headers);
    varlena::require_memory(packed.len().saturating_mul(LONGEST_ESCAPE));
    let mut found = Attributes::of(records::headers(packed));
    let headers = if plain.is_utf8 && jsonb::of_headers(records::headers(packed), &mut plain.headers) {
        Ok(value_in(&plain.headers))
    } else {
        decoded(headers_json(records::headers(packed)).as_bytes(), None)
    };
    let topic = event.topic();
    let event_type = found.event_type.as_deref();
    let mut document = |value: &[u8], content_type: Option<&str>| {
        let buffer = plain.is_utf8.then_some(&mut plain.data);
        match schemas::decode::decode(topic, event_type, content_type, value, &mut plain.document) {
            Decoded::AsItIs => decoded(value, buffer),
            Decoded::Document => decoded(&plain.document, buffer),
            Decoded::Refused(reason) => Err(reason),
        }
    };
    let (payload, data) = match &unfolded {
        Some(Unfolded { payload, content_type, .. }) => {
            found.content_type = content_type.as_deref().map(Cow::Borrowed);
            let data = payload.as_deref().map(|value| document(value, content_type.as_deref()));
            (payload.as_deref().into_datum(), data)
        }
        None => (event.datum(VALUE), value.map(|value| document(value, found.content_type.as_deref()))),
    };
    let error = match (&data, &headers) {
        (Some(Err(error)), _) => Some(error.clone()),
        (_, Err(error)) => Some(format!("headers: {error}")),
        _ => None,
    };
    let text = |value: &Option<Cow<'_, str>>| value.as_deref().and_then(IntoDatum::into_datum);
    output.add([
        event.datum(1),
        event.datum(2),
        event.datum(3),
        event.datum(4),
        event.datum(KEY),
        payload,
        data.and_then(Result::ok),
        error.into_datum(),
        headers.ok(),
        text(&found.event_id),
        text(&found.event_type),
        text(&found.event_source),
        found.event_time.map(|at| pg_sys::Datum::from(pg_timestamp(at))),
        text(&found.content_type),
        event.datum(5),
        event.attempts().saturating_add(1).cast_signed().into_datum(),
        lease.and_then(|token| pgrx::Uuid::from_bytes(token.to_be_bytes()).into_datum()),
    ]);
}

/// Whether an event can be decoded in a moment only: its schema is being fetched. The caller has accepted invalidations.
#[must_use]
pub fn must_wait(event: &Stored) -> bool {
    awaited(event).is_some_and(|awaited| !awaited.is_overdue())
}

/// The schema without which an event cannot be decoded, if it is being fetched. The caller has accepted invalidations.
#[must_use]
pub fn awaited(event: &Stored) -> Option<Awaited> {
    let value = event.datum(VALUE)?;
    // SAFETY: a bytea of the row, which is alive. The slice is a copy.
    let begin = unsafe {
        let slice = pg_sys::pg_detoast_datum_slice(value.cast_mut_ptr(), 0, WIRE_PREFIX);
        pgrx::varlena::varlena_to_byte_slice(slice)
    };
    let event_type = || Attributes::of(records::headers(event.bytes(HEADERS).unwrap_or_default())).event_type;
    schemas::decode::awaited(event.topic(), event_type, begin)
}

/// Decodes the value of an event by its schema into the buffer; what has none is left as it is. The caller has accepted
/// invalidations.
pub fn decode_value(event: &Stored, value: &[u8], buffer: &mut Vec<u8>) -> Decoded {
    let topic = event.topic();
    if !schemas::decode::may_be_encoded(topic, value) {
        return Decoded::AsItIs;
    }
    let found = Attributes::of(records::headers(event.bytes(HEADERS).unwrap_or_default()));
    schemas::decode::decode(topic, found.event_type.as_deref(), found.content_type.as_deref(), value, buffer)
}

/// Those of the waiting events that can be decoded: one whose schema is being fetched keeps later ones of its order key.
#[must_use]
pub fn decodable(subscription: &Subscription, due: Vec<i64>) -> Vec<i64> {
    if due.is_empty() || registry::url().is_none() {
        return due;
    }
    schemas::catalog::accept_changes();
    let mut held = HashSet::new();
    let mut left = Vec::with_capacity(due.len());
    for event in stored::waited(subscription, &due) {
        let key = event.order_key(subscription);
        if must_wait(&event) || key.as_ref().is_some_and(|key| held.contains(key)) {
            held.extend(key);
        } else {
            left.push(event.position());
        }
    }
    left
}

/// The event of a record in the structured mode of CloudEvents, as binary mode would have it.
fn unfold<'a>(packed: &[u8], value: Option<&'a [u8]>) -> Option<Unfolded<'a>> {
    let value = value.filter(|_| structured::is_structured(records::headers(packed)))?;
    varlena::require_memory((packed.len() + value.len()).saturating_mul(structured::MEMORY));
    structured::unfold(packed, value)
}

/// A value that was made in a buffer. It lives as long as what is in the buffer.
fn value_in(buffer: &[u8]) -> pg_sys::Datum {
    pg_sys::Datum::from(buffer.as_ptr())
}

/// The JSON document as a jsonb, which is made in the buffer if it is a plain one; or why it is none.
fn decoded(json: &[u8], buffer: Option<&mut Vec<u8>>) -> Result<pg_sys::Datum, String> {
    // What begins otherwise needs no parser to be refused.
    let first = json.iter().find(|byte| !byte.is_ascii_whitespace());
    if !first.is_some_and(|byte| byte.is_ascii_digit() || b"{[\"-tfn".contains(byte)) {
        return Err("it is not JSON".into());
    }
    let text = std::str::from_utf8(json)
        .map_err(|error| format!("it is not valid UTF-8 from byte {} on", error.valid_up_to() + 1))?;
    if let Some(buffer) = buffer
        && jsonb::of_json(text, buffer)
    {
        return Ok(value_in(buffer));
    }
    if let Some(at) = json.iter().position(|byte| *byte == 0) {
        return Err(format!("it is not JSON: byte {} is zero", at + 1));
    }
    parse(json)
}

/// Has Postgres parse the text, which has no zero byte. Nothing but memory is used meanwhile, so its errors can be caught
/// without a subtransaction.
fn parse(json: &[u8]) -> Result<pg_sys::Datum, String> {
    // SAFETY: the allocation has room for the text and the zero byte; or an ERROR.
    let text = unsafe {
        let text = pg_sys::palloc(json.len() + 1).cast::<u8>();
        std::ptr::copy_nonoverlapping(json.as_ptr(), text, json.len());
        text.add(json.len()).write(0);
        text.cast::<c_char>()
    };
    let text = std::panic::AssertUnwindSafe(text);
    PgTryBuilder::new(move || {
        // SAFETY: takes a C string.
        let parsed = unsafe {
            pgrx::direct_function_call_as_datum(pg_sys::jsonb_in, &[Some(pg_sys::Datum::from(*text))])
        };
        parsed.ok_or_else(String::new)
    })
    .catch_others(|cause| match &cause {
        CaughtError::PostgresError(error) if !is_of_the_session(error.sql_error_code()) => {
            Err(match error.detail() {
                Some(detail) => format!("{}: {detail}", error.message()),
                None => error.message().to_owned(),
            })
        }
        _ => cause.rethrow(),
    })
    .execute()
}

/// Whether an error is not the text's: the session is to end, its query to be cancelled, or the server lacks memory.
fn is_of_the_session(code: PgSqlErrorCode) -> bool {
    const CATEGORY: i32 = 0xfff;
    [PgSqlErrorCode::ERRCODE_OPERATOR_INTERVENTION, PgSqlErrorCode::ERRCODE_INSUFFICIENT_RESOURCES]
        .iter()
        .any(|class| code as i32 & CATEGORY == *class as i32)
}
