//! JSON values in Protobuf's binary encoding.

use prost::Message;
use prost_reflect::{Cardinality, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor};

use super::scalars::{Wire, mismatch, put_varint, scalar};
use crate::schema::document::Json;
use crate::schema::fault::{Fault, Path};
use crate::schema::limits::MAX_DEPTH;
use crate::schema::numbers;
use crate::schema::output::Output;

/// Encodes a value as a message.
///
/// # Errors
/// The first value that does not fit.
pub fn encode(message: &MessageDescriptor, json: &Json<'_>, out: &mut Output<'_>) -> Result<(), Fault> {
    let mut bytes = Vec::new();
    value(message, json, &Path::Root, &mut bytes)?;
    out.put(&bytes)
}

fn value(
    message: &MessageDescriptor,
    json: &Json<'_>,
    path: &Path<'_>,
    out: &mut Vec<u8>,
) -> Result<(), Fault> {
    if path.depth() > MAX_DEPTH {
        return Err(path.fault(format!("it is nested more than {MAX_DEPTH} levels deep")));
    }
    match WellKnown::of(message) {
        Some(WellKnown::Wrapper) => {
            let inner = message.get_field(1).ok_or_else(|| path.fault("the wrapper has no value"))?;
            single(&inner, json, path, out)
        }
        Some(WellKnown::Other) => well_known(message, json, path, out),
        None => match json {
            Json::Object(members) => fields(message, members, path, out),
            json => Err(mismatch(message.full_name(), json, path)),
        },
    }
}

/// Messages that JSON writes in a form of their own.
enum WellKnown {
    /// A scalar that can be missing.
    Wrapper,
    /// A time, a document, …
    Other,
}

impl WellKnown {
    fn of(message: &MessageDescriptor) -> Option<Self> {
        Some(match message.full_name().strip_prefix("google.protobuf.")? {
            "DoubleValue" | "FloatValue" | "Int64Value" | "UInt64Value" | "Int32Value" | "UInt32Value"
            | "BoolValue" | "StringValue" | "BytesValue" => Self::Wrapper,
            "Any" | "Timestamp" | "Duration" | "FieldMask" | "Struct" | "Value" | "ListValue" | "Empty" => {
                Self::Other
            }
            _ => return None,
        })
    }
}

/// The mapping of the library, which knows these forms. Their numbers are doubles.
fn well_known(
    message: &MessageDescriptor,
    json: &Json<'_>,
    path: &Path<'_>,
    out: &mut Vec<u8>,
) -> Result<(), Fault> {
    let mut text = Vec::new();
    write(json, path, &mut Output::new(&mut text, usize::MAX))?;
    let mut reader = serde_json::Deserializer::from_slice(&text);
    let found = DynamicMessage::deserialize(message.clone(), &mut reader).map_err(|error| {
        let reason = error.to_string();
        let reason = reason.split(" at line ").next().unwrap_or_default();
        path.fault(format!("it is not {}: {reason}", message.full_name()))
    })?;
    out.extend_from_slice(&found.encode_to_vec());
    Ok(())
}

/// Writes a document as JSON, if doubles hold all of its numbers.
fn write(json: &Json<'_>, path: &Path<'_>, out: &mut Output<'_>) -> Result<(), Fault> {
    match json {
        Json::Null => out.put(b"null"),
        Json::Boolean(value) => out.put(value.to_string().as_bytes()),
        Json::Number(text) => match numbers::double(text) {
            Some(_) => out.put(text.as_bytes()),
            None => Err(path.fault(format!("{text} cannot be held by a double without loss"))),
        },
        Json::Text(text) => out.put_string(text),
        Json::Array(elements) => {
            for (at, element) in elements.iter().enumerate() {
                out.put(if at == 0 { b"[" } else { b"," })?;
                write(element, &Path::Element(path, at), out)?;
            }
            out.put(if elements.is_empty() { b"[]" } else { b"]" })
        }
        Json::Object(members) => {
            for (at, (name, member)) in members.iter().enumerate() {
                out.put(if at == 0 { b"{" } else { b"," })?;
                out.put_string(name)?;
                out.put(b":")?;
                write(member, &Path::Member(path, name), out)?;
            }
            out.put(if members.is_empty() { b"{}" } else { b"}" })
        }
    }
}

type Member<'a> = (std::borrow::Cow<'a, str>, Json<'a>);

fn fields(
    message: &MessageDescriptor,
    members: &[Member<'_>],
    path: &Path<'_>,
    out: &mut Vec<u8>,
) -> Result<(), Fault> {
    let mut found = Vec::with_capacity(members.len());
    for (name, member) in members {
        let field = message.get_field_by_name(name).or_else(|| message.get_field_by_json_name(name));
        let field = field.ok_or_else(|| {
            Path::Member(path, name).fault(format!("{} has no field of this name", message.full_name()))
        })?;
        if !is_absent(&field, member) {
            found.push((field.number(), field, &**name, member));
        }
    }
    found.sort_by_key(|(number, ..)| *number);
    let mut one_ofs = Vec::new();
    for (at, (number, field, name, member)) in found.iter().enumerate() {
        let path = Path::Member(path, name);
        if at > 0 && found[at - 1].0 == *number {
            return Err(path.fault("the field is there under another name as well"));
        }
        if let Some(one_of) = field.containing_oneof() {
            let full_name = one_of.full_name().to_owned();
            if one_ofs.contains(&full_name) {
                return Err(
                    path.fault(format!("another field of the oneof {} is there as well", one_of.name()))
                );
            }
            one_ofs.push(full_name);
        }
        put_field(field, member, &path, out)?;
    }
    for field in message.fields().filter(|field| field.cardinality() == Cardinality::Required) {
        if !found.iter().any(|(number, ..)| *number == field.number()) {
            return Err(Path::Member(path, field.name()).fault("the required field is missing"));
        }
    }
    Ok(())
}

/// Whether a value says that there is none. The null of a document is a value.
fn is_absent(field: &FieldDescriptor, json: &Json<'_>) -> bool {
    let null_means = match field.kind() {
        Kind::Message(of) => of.full_name() == "google.protobuf.Value",
        Kind::Enum(of) => of.full_name() == "google.protobuf.NullValue",
        _ => false,
    };
    matches!(json, Json::Null) && (field.is_list() || !null_means)
}

fn put_field(
    field: &FieldDescriptor,
    json: &Json<'_>,
    path: &Path<'_>,
    out: &mut Vec<u8>,
) -> Result<(), Fault> {
    if field.is_map() {
        return put_map(field, json, path, out);
    }
    if !field.is_list() {
        return single(field, json, path, out);
    }
    let Json::Array(elements) = json else { return Err(mismatch("an array", json, path)) };
    if !field.is_packed() || matches!(field.kind(), Kind::Message(_)) {
        return elements
            .iter()
            .enumerate()
            .try_for_each(|(at, element)| element_of(field, element, &Path::Element(path, at), out));
    }
    if elements.is_empty() {
        return Ok(());
    }
    let mut packed = Vec::new();
    for (at, element) in elements.iter().enumerate() {
        packed.extend_from_slice(&scalar(&field.kind(), element, &Path::Element(path, at))?.bytes);
    }
    put_sized(field.number(), &packed, out);
    Ok(())
}

/// A field that is there once. What a missing one means is left out where presence is not known.
fn single(field: &FieldDescriptor, json: &Json<'_>, path: &Path<'_>, out: &mut Vec<u8>) -> Result<(), Fault> {
    if !field.supports_presence()
        && !matches!(field.kind(), Kind::Message(_))
        && scalar(&field.kind(), json, path)?.is_default
    {
        return Ok(());
    }
    element_of(field, json, path, out)
}

fn element_of(
    field: &FieldDescriptor,
    json: &Json<'_>,
    path: &Path<'_>,
    out: &mut Vec<u8>,
) -> Result<(), Fault> {
    let number = field.number();
    match field.kind() {
        Kind::Message(message) => {
            let mut bytes = Vec::new();
            value(&message, json, path, &mut bytes)?;
            if field.is_group() {
                put_key(number, Wire::Group.number(), out);
                out.extend_from_slice(&bytes);
                put_key(number, Wire::Group.number() + 1, out);
            } else {
                put_sized(number, &bytes, out);
            }
        }
        kind => put_scalar(number, &kind, json, path, out)?,
    }
    Ok(())
}

fn put_scalar(
    number: u32,
    kind: &Kind,
    json: &Json<'_>,
    path: &Path<'_>,
    out: &mut Vec<u8>,
) -> Result<(), Fault> {
    let found = scalar(kind, json, path)?;
    if found.wire == Wire::Sized {
        put_sized(number, &found.bytes, out);
    } else {
        put_key(number, found.wire.number(), out);
        out.extend_from_slice(&found.bytes);
    }
    Ok(())
}

fn put_map(
    field: &FieldDescriptor,
    json: &Json<'_>,
    path: &Path<'_>,
    out: &mut Vec<u8>,
) -> Result<(), Fault> {
    let (Json::Object(members), Kind::Message(entry)) = (json, field.kind()) else {
        return Err(mismatch("an object", json, path));
    };
    let (key, of) = (entry.map_entry_key_field(), entry.map_entry_value_field());
    for (name, member) in members {
        let path = Path::Member(path, name);
        let text = match (&key.kind(), &**name) {
            (Kind::Bool, "true") => Json::Boolean(true),
            (Kind::Bool, "false") => Json::Boolean(false),
            (_, name) => Json::Text(name.into()),
        };
        let mut bytes = Vec::new();
        put_scalar(1, &key.kind(), &text, &path, &mut bytes)?;
        element_of(&of, member, &path, &mut bytes)?;
        put_sized(field.number(), &bytes, out);
    }
    Ok(())
}

fn put_key(number: u32, wire: u64, out: &mut Vec<u8>) {
    put_varint(u64::from(number) << 3 | wire, out);
}

fn put_sized(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    put_key(number, Wire::Sized.number(), out);
    put_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}
