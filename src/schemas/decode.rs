//! Owns the decoding of what is received: by the id of the wire format, or by the binding of the topic. Whatever a producer
//! has written, this raises no error.
//!
//! Runs in: client backends.

use std::borrow::Cow;
use std::fmt;

use event_outbox_policy::event::structured::is_json_type;
use event_outbox_policy::schema::compiled::{Format, Message};
use event_outbox_policy::schema::limits::MEMORY_PER_BYTE;
use event_outbox_policy::schema::wire;

use super::catalog::{self, Found, Framing};
use super::registry::fetches::Fetching;
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

/// The schema of a value, which the relay is fetching from the Schema Registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Awaited {
    id: i32,
    fetching: Fetching,
}

impl Awaited {
    /// Whether the registry has not answered for longer than a receiver waits.
    #[must_use]
    pub fn is_overdue(&self) -> bool {
        self.fetching.is_overdue()
    }

    /// Whether the registry was asked, and did not give it.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.fetching.error.is_some()
    }
}

impl fmt::Display for Awaited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, fetching } = self;
        match &fetching.error {
            Some(error) => write!(f, "the schema with id {id} could not be fetched: {error}"),
            None => write!(f, "the schema with id {id} is being fetched from the registry"),
        }
    }
}

/// The schema without which a value cannot be decoded, if the relay is fetching it: the value can be decoded later. The caller
/// has accepted invalidations.
#[must_use]
pub fn awaited<'a>(
    topic: &str,
    event_type: impl FnOnce() -> Option<Cow<'a, str>>,
    value: &[u8],
) -> Option<Awaited> {
    let (id, _) = wire::split(value)?;
    registry::url()?;
    if let Found::Bound(bound) = catalog::find(topic, event_type().as_deref())
        && bound.framing == Framing::Plain
    {
        return None;
    }
    match wire_ids::schema(id) {
        Meaning::Wanted(fetching) => Some(Awaited { id, fetching }),
        _ => None,
    }
}

/// Whether a value may be in an encoding that is known, for which its type is needed. The caller has accepted invalidations.
#[must_use]
pub fn may_be_encoded(topic: &str, value: &[u8]) -> bool {
    wire::split(value).is_some() || catalog::has_any(topic)
}

/// Decodes a record's value into the buffer. The caller has accepted invalidations.
pub fn decode(
    topic: &str,
    event_type: Option<&str>,
    content_type: Option<&str>,
    value: &[u8],
    buffer: &mut Vec<u8>,
) -> Decoded {
    buffer.clear();
    if let Found::Bound(bound) = catalog::find(topic, event_type)
        && bound.framing == Framing::Plain
    {
        // A category of the event store may have the name of a topic; its events say that they are JSON.
        let is_json = bound.format == Format::Json || content_type.is_some_and(is_json_type);
        return match is_json {
            true => Decoded::AsItIs,
            false => by_schema(bound.schema_id, Message::named(bound.message.as_deref()), value, buffer),
        };
    }
    let Some((id, mut rest)) = wire::split(value) else { return Decoded::AsItIs };
    let schema_id = match wire_ids::schema(id) {
        Meaning::Schema(schema_id) if definitions::with_id(schema_id).is_some() => schema_id,
        Meaning::Schema(_) => return Decoded::Refused(format!("the schema with id {id} is not known")),
        Meaning::Wanted(fetching) => return Decoded::Refused(Awaited { id, fetching }.to_string()),
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
