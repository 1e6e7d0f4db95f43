//! Owns the decoding of what is received: by the id of the wire format, or by the binding of the topic. Whatever a producer
//! has written, this raises no error.
//!
//! Runs in: client backends.

use std::borrow::Cow;

use event_outbox_policy::schema::compiled::{Format, Message};
use event_outbox_policy::schema::limits::MEMORY_PER_BYTE;
use event_outbox_policy::schema::wire;

use super::catalog::{self, Found, Framing};
use super::wire_ids::Meaning;
use super::{definitions, wire_ids};
use crate::pg::varlena;
use crate::settings::registry;

/// What a value is.
pub enum Decoded {
    /// In no encoding that is known: it may be JSON.
    AsItIs,
    /// A document, which is in the buffer.
    Document,
    /// An encoding that is not decoded, and why.
    Refused(String),
}

/// Whether a value can be decoded in a moment only: the relay is asking the Schema Registry for its schema. The caller has
/// accepted invalidations.
#[must_use]
pub fn must_wait<'a>(topic: &str, event_type: impl FnOnce() -> Option<Cow<'a, str>>, value: &[u8]) -> bool {
    let Some((id, _)) = wire::split(value) else { return false };
    let is_plain = || match catalog::find(topic, event_type().as_deref()) {
        Found::Bound(bound) => bound.framing == Framing::Plain,
        _ => false,
    };
    registry::url().is_some() && !is_plain() && wire_ids::schema(id) == Meaning::Wanted
}

/// Decodes a record's value into the buffer. The caller has accepted invalidations.
pub fn decode(topic: &str, event_type: Option<&str>, value: &[u8], buffer: &mut Vec<u8>) -> Decoded {
    buffer.clear();
    if let Found::Bound(bound) = catalog::find(topic, event_type)
        && bound.framing == Framing::Plain
    {
        return match bound.format {
            Format::Json => Decoded::AsItIs,
            _ => by_schema(bound.schema_id, Message::named(bound.message.as_deref()), value, buffer),
        };
    }
    let Some((id, mut rest)) = wire::split(value) else { return Decoded::AsItIs };
    let schema_id = match wire_ids::schema(id) {
        Meaning::Schema(schema_id) if definitions::with_id(schema_id).is_some() => schema_id,
        Meaning::Schema(_) => return Decoded::Refused(format!("the schema with id {id} is not known")),
        Meaning::Wanted => {
            return Decoded::Refused(format!("the schema with id {id} is being fetched from the registry"));
        }
        Meaning::Unknown(reason) => return Decoded::Refused(reason),
    };
    let is_protobuf = definitions::with_id(schema_id)
        .and_then(Result::ok)
        .is_some_and(|schema| schema.format() == Format::Protobuf);
    if !is_protobuf {
        return by_schema(schema_id, Message::First, rest, buffer);
    }
    match wire::take_indexes(&mut rest) {
        Some(indexes) => by_schema(schema_id, Message::At(&indexes), rest, buffer),
        None => Decoded::Refused("it names no message of its schema".into()),
    }
}

fn by_schema(schema_id: i32, message: Message<'_>, payload: &[u8], buffer: &mut Vec<u8>) -> Decoded {
    varlena::require_memory(payload.len().saturating_mul(MEMORY_PER_BYTE));
    let decoded = match definitions::with_id(schema_id) {
        Some(Ok(schema)) => schema.decode(message, payload, buffer).map_err(|fault| fault.to_string()),
        Some(Err(reason)) => Err(format!("its schema cannot be used: {reason}")),
        None => Err(format!("the schema with id {schema_id} is not known")),
    };
    match decoded {
        Ok(()) => Decoded::Document,
        Err(reason) => Decoded::Refused(reason),
    }
}
