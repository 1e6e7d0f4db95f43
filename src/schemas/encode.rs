//! Owns the payloads of events whose topics are bound to schemas: documents are checked and encoded, and what is encoded
//! already is checked.
//!
//! Runs in: client backends, and workers that emit.

use std::rc::Rc;

use event_outbox_policy::event::structured::is_json_type;
use event_outbox_policy::schema::compiled::{Compiled, Format, Message};
use event_outbox_policy::schema::fault::Fault;
use event_outbox_policy::schema::limits::MEMORY_PER_BYTE;
use event_outbox_policy::schema::wire;
use pgrx::prelude::*;

use super::catalog::{self, Bound, Found, Framing};
use super::registry::registrations;
use super::wire_ids::Meaning;
use super::{definitions, wire_ids};
use crate::pg::spi::{Access, Statement};
use crate::pg::user_error::UserError;
use crate::pg::varlena;

static IS_VERSION: Statement = Statement::new(
    c"SELECT FROM outbox.schema_version AS v \
       WHERE v.subject OPERATOR(pg_catalog.=) $1 AND v.schema_id OPERATOR(pg_catalog.=) $2",
    &[pg_sys::TEXTOID, pg_sys::INT4OID],
);

/// A payload as its topic's schema has it.
pub struct Encoded {
    /// A bytea.
    pub payload: pg_sys::Datum,
    /// Its media type.
    pub content_type: &'static str,
}

/// Checks the payload of an event, and encodes it if its content type says that it is JSON. `None` if its topic is not bound,
/// or the event is a tombstone. An ERROR if it breaks the schema, or would be longer than `limit`. `payload` is the event's: a
/// bytea, text or json. The caller has accepted invalidations.
pub fn apply(
    topic: &str,
    event_type: Option<&str>,
    payload: Option<pg_sys::Datum>,
    content_type: Option<&str>,
    limit: usize,
) -> Option<Encoded> {
    let payload = payload?;
    let bound = match catalog::find(topic, event_type) {
        Found::Unbound => return None,
        Found::Bound(bound) => bound,
        Found::OtherTypes => no_schema(topic, event_type),
    };
    // SAFETY: a value of an event, which is alive as long as that is stored.
    let bytes = unsafe {
        varlena::require_memory(varlena::length(payload).saturating_mul(MEMORY_PER_BYTE));
        pgrx::varlena::varlena_to_byte_slice(pg_sys::pg_detoast_datum_packed(payload.cast_mut_ptr()))
    };
    let is_document = content_type.is_some_and(is_json_type) && bytes.first() != Some(&0);
    let done = if is_document { encode(&bound, bytes, limit) } else { check(&bound, bytes).map(|()| None) };
    let new = done.unwrap_or_else(|fault| refuse(&bound, &fault));
    let payload = new.map_or(payload, |new| varlena::filled(new.len(), |room| room.copy_from_slice(&new)));
    Some(Encoded { payload, content_type: bound.format.media_type() })
}

/// The encoding of a document; `None` if that is the document itself.
fn encode(bound: &Bound, document: &[u8], limit: usize) -> Result<Option<Vec<u8>>, Fault> {
    let text = std::str::from_utf8(document).map_err(|error| {
        Fault::new(format!("it is not valid UTF-8 from byte {} on", error.valid_up_to() + 1))
    })?;
    let schema = compiled(bound.schema_id)?;
    let message = Message::named(bound.message.as_deref());
    let mut bytes = Vec::new();
    if bound.framing == Framing::Confluent {
        bytes.extend_from_slice(&wire::prefix(wire_id(bound)));
        if let Some(indexes) = schema.indexes(message)? {
            wire::put_indexes(&indexes, &mut bytes);
        }
    }
    schema.encode(message, text, &mut bytes, limit)?;
    let is_same = bound.format == Format::Json && bound.framing == Framing::Plain;
    Ok((!is_same).then_some(bytes))
}

/// Checks that a payload is encoded as the binding says, by any version of its subject.
fn check(bound: &Bound, payload: &[u8]) -> Result<(), Fault> {
    if bound.framing == Framing::Plain {
        return compiled(bound.schema_id)?.check(Message::named(bound.message.as_deref()), payload);
    }
    let (id, mut rest) = wire::split(payload).ok_or_else(|| {
        Fault::new(
            "it does not begin with a zero byte and the id of its schema, and its content type is not JSON",
        )
    })?;
    let schema_id = match wire_ids::schema(id) {
        Meaning::Schema(schema_id) if is_version(&bound.subject, schema_id) => schema_id,
        _ => return Err(Fault::new(format!("the schema with id {id} is not a version of the subject"))),
    };
    let schema = compiled(schema_id)?;
    let indexes = match bound.format {
        Format::Protobuf => {
            Some(wire::take_indexes(&mut rest).ok_or_else(|| Fault::new("it names no message"))?)
        }
        _ => None,
    };
    if indexes.is_some()
        && bound.message.is_some()
        && schema.indexes(Message::named(bound.message.as_deref()))? != indexes
    {
        return Err(Fault::new("it is another message than the topic is bound to"));
    }
    schema.check(indexes.as_deref().map_or(Message::First, Message::At), rest)
}

fn is_version(subject: &str, schema_id: i32) -> bool {
    catalog::as_owner(|| {
        !IS_VERSION.execute(&[subject.into_datum(), schema_id.into_datum()], Access::Read, 1).is_empty()
    })
}

fn compiled(schema_id: i32) -> Result<Rc<Compiled>, Fault> {
    match definitions::with_id(schema_id) {
        Some(outcome) => outcome.map_err(|reason| Fault::new(format!("the schema cannot be used: {reason}"))),
        None => Err(Fault::new(format!("the definition with id {schema_id} is gone"))),
    }
}

fn wire_id(bound: &Bound) -> i32 {
    wire_ids::of_schema(bound.schema_id).unwrap_or_else(|| {
        UserError {
            code: PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            message: format!(
                "schema \"{}\" version {} has no id in the Schema Registry yet",
                bound.subject, bound.version
            ),
            detail: registrations::why_not(&bound.subject, bound.version),
            hint: "Wait until it has: SELECT outbox.wait_registered(). outbox.schemas shows the state of each version."
                .into(),
        }
        .raise()
    })
}

fn refuse(bound: &Bound, fault: &Fault) -> ! {
    let place = if fault.place.is_empty() { String::new() } else { format!("At {}: ", fault.place) };
    UserError {
        // As for any value that breaks a rule of its author's database.
        code: PgSqlErrorCode::ERRCODE_CHECK_VIOLATION,
        message: format!("event payload violates schema \"{}\" version {}", bound.subject, bound.version),
        detail: format!("{place}{}.", sentence(&fault.reason, place.is_empty())),
        hint: "Emit a payload that fits the schema, or register a new version with outbox.register_schema()."
            .into(),
    }
    .raise()
}

/// A reason at the beginning of a sentence.
pub fn sentence(reason: &str, begins: bool) -> String {
    let mut characters = reason.chars();
    match characters.next() {
        Some(first) if begins => first.to_uppercase().chain(characters).collect(),
        _ => reason.to_owned(),
    }
}

fn no_schema(topic: &str, event_type: Option<&str>) -> ! {
    UserError {
        code: PgSqlErrorCode::ERRCODE_CHECK_VIOLATION,
        message: match event_type {
            Some(event_type) => format!("events of type \"{event_type}\" have no schema on topic \"{topic}\""),
            None => format!("events without a type have no schema on topic \"{topic}\""),
        },
        detail: "Other types of events are bound to schemas on this topic.".into(),
        hint: "Bind this type, or all others by a NULL as type, with outbox.bind_schema(). A NULL as subject lets them pass unchecked.".into(),
    }
    .raise()
}
