//! A schema of any format, and what is done with one: check and encode documents, decode payloads.

use super::document::Json;
use super::fault::{Fault, shown};
use super::limits::{MAX_DEFINITION_BYTES, MAX_DOCUMENT_BYTES, MAX_PAYLOAD_BYTES};
use super::output::Output;

/// The language of a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// JSON Schema.
    Json,
    /// Avro.
    Avro,
    /// Protobuf.
    Protobuf,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Json, Self::Avro, Self::Protobuf];

    /// The format of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    /// Its name in SQL.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Avro => "avro",
            Self::Protobuf => "protobuf",
        }
    }

    /// The media type of its payloads.
    #[must_use]
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Avro => "application/avro",
            Self::Protobuf => "application/protobuf",
        }
    }

    /// Whether this build has it.
    #[must_use]
    pub fn is_built(self) -> bool {
        match self {
            Self::Json => cfg!(feature = "json-schema"),
            Self::Avro => cfg!(feature = "avro"),
            Self::Protobuf => cfg!(feature = "protobuf"),
        }
    }
}

/// A compiled schema.
#[derive(Debug)]
pub enum Compiled {
    /// JSON Schema.
    #[cfg(feature = "json-schema")]
    Json(super::json::Schema),
    /// Avro.
    #[cfg(feature = "avro")]
    Avro(super::avro::types::Types),
    /// Protobuf.
    #[cfg(feature = "protobuf")]
    Protobuf(super::protobuf::Schema),
}

/// A message of a Protobuf schema, by its name or its place. Other formats have one type of value each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message<'a> {
    /// The first one.
    First,
    /// By name.
    Named(&'a str),
    /// By its place in the schema.
    At(&'a [i32]),
}

impl<'a> Message<'a> {
    /// The one of this name, or the first.
    #[must_use]
    pub fn named(name: Option<&'a str>) -> Self {
        name.map_or(Self::First, Self::Named)
    }
}

impl Compiled {
    /// Compiles a definition.
    ///
    /// # Errors
    /// It is wrong, exceeds a limit, or this build lacks the format.
    pub fn compile(format: Format, definition: &str) -> Result<Self, Fault> {
        if definition.len() > MAX_DEFINITION_BYTES {
            let have = definition.len();
            return Err(Fault::new(format!(
                "the definition has {have} bytes, and {MAX_DEFINITION_BYTES} are allowed"
            )));
        }
        match format {
            #[cfg(feature = "json-schema")]
            Format::Json => super::json::Schema::compile(definition).map(Self::Json),
            #[cfg(feature = "avro")]
            Format::Avro => super::avro::compile(definition).map(Self::Avro),
            #[cfg(feature = "protobuf")]
            Format::Protobuf => super::protobuf::Schema::compile(definition).map(Self::Protobuf),
            #[allow(unreachable_patterns, reason = "a build with all formats has none that is missing")]
            missing => Err(Fault::new(format!("event_outbox is built without {}", missing.name()))),
        }
    }

    /// Its format.
    #[must_use]
    pub fn format(&self) -> Format {
        match self {
            #[cfg(feature = "json-schema")]
            Self::Json(_) => Format::Json,
            #[cfg(feature = "avro")]
            Self::Avro(_) => Format::Avro,
            #[cfg(feature = "protobuf")]
            Self::Protobuf(_) => Format::Protobuf,
        }
    }

    /// The place of a message, which the wire format has before its payload. `None` for formats that have no messages.
    ///
    /// # Errors
    /// There is no such message.
    pub fn indexes(&self, message: Message<'_>) -> Result<Option<Vec<i32>>, Fault> {
        match (self, message) {
            #[cfg(feature = "protobuf")]
            (Self::Protobuf(schema), message) => {
                Ok(Some(super::protobuf::indexes(&descriptor(schema, message)?)))
            }
            #[cfg(any(feature = "json-schema", feature = "avro"))]
            (_, Message::Named(name)) => {
                Err(Fault::new(format!("the schema has no messages, and so none named {}", shown(name))))
            }
            #[cfg(any(feature = "json-schema", feature = "avro"))]
            _ => Ok(None),
        }
    }

    /// Checks a document and appends its encoding, up to a length of `limit`.
    ///
    /// # Errors
    /// The document does not fit the schema.
    pub fn encode(
        &self,
        message: Message<'_>,
        document: &str,
        bytes: &mut Vec<u8>,
        limit: usize,
    ) -> Result<(), Fault> {
        if document.len() > MAX_PAYLOAD_BYTES {
            return Err(too_long(document.len()));
        }
        let mut out = Output::new(bytes, limit);
        let read = || Json::parse(document).map_err(|why| Fault::new(why.to_string()));
        match self {
            #[cfg(feature = "json-schema")]
            Self::Json(schema) => {
                let _ = (message, read);
                schema.check(document)?;
                out.put(document.as_bytes())
            }
            #[cfg(feature = "avro")]
            Self::Avro(types) => {
                let json = read()?;
                let mut encoder = super::avro::encode::Encoder::new(types, out);
                encoder.value(types.root, &json, &super::fault::Path::Root)
            }
            #[cfg(feature = "protobuf")]
            Self::Protobuf(schema) => {
                super::protobuf::encode::encode(&descriptor(schema, message)?, &read()?, &mut out)
            }
        }
    }

    /// Decodes a payload, and appends the document.
    ///
    /// # Errors
    /// The payload is not an encoding by this schema.
    pub fn decode(&self, message: Message<'_>, payload: &[u8], document: &mut Vec<u8>) -> Result<(), Fault> {
        if payload.len() > MAX_PAYLOAD_BYTES {
            return Err(too_long(payload.len()));
        }
        let mut out = Output::new(document, MAX_DOCUMENT_BYTES);
        match self {
            #[cfg(feature = "json-schema")]
            Self::Json(_) => {
                let _ = message;
                out.put(payload)
            }
            #[cfg(feature = "avro")]
            Self::Avro(types) => super::avro::decode::Decoder::new(types, payload, out).decode(),
            #[cfg(feature = "protobuf")]
            Self::Protobuf(schema) => {
                super::protobuf::decode::decode(&descriptor(schema, message)?, payload, out)
            }
        }
    }

    /// Checks that a payload is an encoding by this schema.
    ///
    /// # Errors
    /// It is not.
    pub fn check(&self, message: Message<'_>, payload: &[u8]) -> Result<(), Fault> {
        match self {
            #[cfg(feature = "json-schema")]
            Self::Json(schema) => match std::str::from_utf8(payload) {
                Ok(_) if payload.len() > MAX_PAYLOAD_BYTES => Err(too_long(payload.len())),
                Ok(document) => schema.check(document),
                Err(error) => {
                    Err(Fault::new(format!("it is not valid UTF-8 from byte {} on", error.valid_up_to() + 1)))
                }
            },
            #[allow(unreachable_patterns, reason = "depends on what is built")]
            other => other.decode(message, payload, &mut Vec::new()),
        }
    }
}

#[cfg(feature = "protobuf")]
fn descriptor(
    schema: &super::protobuf::Schema,
    message: Message<'_>,
) -> Result<prost_reflect::MessageDescriptor, Fault> {
    match message {
        Message::First => schema.message(None),
        Message::Named(name) => schema.message(Some(name)),
        Message::At(indexes) => schema
            .message_at(indexes)
            .ok_or_else(|| Fault::new(format!("the schema has no message at {indexes:?}"))),
    }
}

fn too_long(bytes: usize) -> Fault {
    Fault::new(format!("it has {bytes} bytes, and {MAX_PAYLOAD_BYTES} are allowed"))
}
