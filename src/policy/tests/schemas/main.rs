//! Schemas of each format: what is encoded, decoded and refused; what hostile authors may do with them.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod avro;
mod hostile;
mod json;
mod json_compatibility;
mod protobuf;

use event_outbox_policy::schema::compatibility::{self, Incompatible, Level};
use event_outbox_policy::schema::compiled::{Compiled, Format, Message};

fn compiled(format: Format, definition: &str) -> Compiled {
    Compiled::compile(format, definition).unwrap_or_else(|fault| panic!("{fault}: {definition}"))
}

/// The bytes of a document, or why it has none.
fn encoded(schema: &Compiled, document: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    schema.encode(Message::First, document, &mut bytes, 1 << 20).map_err(|fault| fault.to_string())?;
    Ok(bytes)
}

/// The document of bytes, or why they have none.
fn decoded(schema: &Compiled, bytes: &[u8]) -> Result<String, String> {
    let mut document = Vec::new();
    schema.decode(Message::First, bytes, &mut document).map_err(|fault| fault.to_string())?;
    Ok(String::from_utf8(document).unwrap())
}

/// What becomes of a document on its way.
fn there_and_back(schema: &Compiled, document: &str) -> Result<String, String> {
    let bytes = encoded(schema, document)?;
    schema.check(Message::First, &bytes).map_err(|fault| fault.to_string())?;
    decoded(schema, &bytes)
}

/// Why a new version is not compatible with an old one.
fn incompatible(format: Format, level: &str, new: &str, old: &str) -> Option<String> {
    let [new, old] = [new, old].map(|definition| compiled(format, definition));
    match compatibility::check(Level::parse(level).unwrap(), &new, &old) {
        Ok(()) => None,
        Err(Incompatible::Backward(fault) | Incompatible::Forward(fault)) => Some(fault.to_string()),
    }
}
