//! Whether a reader's schema reads what was written with a writer's: the changes that Confluent's registry allows. Fields are
//! compared by number.

use prost_reflect::{Cardinality, FieldDescriptor, Kind, MessageDescriptor};

use super::Schema;
use crate::schema::fault::Fault;

/// Checks that a schema reads what was written with another.
///
/// # Errors
/// The first message or field that it cannot read.
pub fn can_read(reader: &Schema, writer: &Schema) -> Result<(), Fault> {
    let mut open: Vec<(Option<MessageDescriptor>, MessageDescriptor)> = Vec::new();
    for old in writer.file.messages() {
        open.push((reader.file.messages().find(|new| new.name() == old.name()), old));
    }
    while let Some((new, old)) = open.pop() {
        let Some(new) = new else {
            // Of a map that is gone, as a field may be.
            if old.is_map_entry() {
                continue;
            }
            return Err(Fault::at(old.full_name(), "the message is gone"));
        };
        message(&new, &old)?;
        for child in old.child_messages() {
            open.push((new.child_messages().find(|new| new.name() == child.name()), child));
        }
    }
    Ok(())
}

fn message(new: &MessageDescriptor, old: &MessageDescriptor) -> Result<(), Fault> {
    for field in old.fields() {
        let place = || format!("{}.{}", old.full_name(), field.name());
        match new.get_field(field.number()) {
            Some(now) => same_field(&now, &field).map_err(|reason| Fault::at(place(), reason))?,
            None if field.cardinality() == Cardinality::Required => {
                return Err(Fault::at(place(), "the required field is gone"));
            }
            None if one_of(&field).is_some() => {
                return Err(Fault::at(place(), "the field of a oneof is gone"));
            }
            None => {}
        }
    }
    for field in new.fields() {
        if field.cardinality() == Cardinality::Required && old.get_field(field.number()).is_none() {
            return Err(Fault::at(
                format!("{}.{}", new.full_name(), field.name()),
                "a required field is new",
            ));
        }
    }
    one_ofs(new, old)
}

fn same_field(new: &FieldDescriptor, old: &FieldDescriptor) -> Result<(), String> {
    if (new.cardinality() == Cardinality::Required) != (old.cardinality() == Cardinality::Required) {
        return Err("it is required in one of the versions only".into());
    }
    let (now, before) = (new.kind(), old.kind());
    let can_repeat = matches!(now, Kind::String | Kind::Bytes | Kind::Message(_));
    if new.is_list() != old.is_list() && !can_repeat || new.is_map() != old.is_map() {
        return Err("it is repeated in one of the versions only".into());
    }
    match (&now, &before) {
        (Kind::Message(now), Kind::Message(before)) => {
            // The message of a map belongs to its field, whose name may change.
            if now.full_name() == before.full_name() || new.is_map() && old.is_map() {
                Ok(())
            } else {
                Err(format!("its type is {} instead of {}", now.full_name(), before.full_name()))
            }
        }
        (Kind::Enum(_), Kind::Enum(_)) => Ok(()),
        _ if group(&now) == group(&before) => Ok(()),
        _ => Err(format!("its type is {} instead of {}", name(&now), name(&before))),
    }
}

/// Kinds with the same number are read as each other.
fn group(kind: &Kind) -> u8 {
    match kind {
        Kind::Int32 | Kind::Int64 | Kind::Uint32 | Kind::Uint64 | Kind::Bool | Kind::Enum(_) => 0,
        Kind::Sint32 | Kind::Sint64 => 1,
        Kind::String | Kind::Bytes => 2,
        Kind::Fixed32 | Kind::Sfixed32 => 3,
        Kind::Fixed64 | Kind::Sfixed64 => 4,
        Kind::Float => 5,
        Kind::Double => 6,
        Kind::Message(_) => 7,
    }
}

fn name(kind: &Kind) -> String {
    match kind {
        Kind::Message(of) => of.full_name().to_owned(),
        Kind::Enum(of) => of.full_name().to_owned(),
        scalar => format!("{scalar:?}").to_lowercase(),
    }
}

/// The oneof that an author has written around a field.
fn one_of(field: &FieldDescriptor) -> Option<String> {
    field.containing_oneof().filter(|one_of| !one_of.is_synthetic()).map(|one_of| one_of.name().to_owned())
}

/// Of two fields that were set independently of each other, a oneof keeps only one.
fn one_ofs(new: &MessageDescriptor, old: &MessageDescriptor) -> Result<(), Fault> {
    for now in new.oneofs().filter(|one_of| !one_of.is_synthetic()) {
        let place = || format!("{}.{}", new.full_name(), now.name());
        let existed = old.oneofs().any(|before| !before.is_synthetic() && before.name() == now.name());
        let moved = now
            .fields()
            .filter_map(|field| old.get_field(field.number()))
            .filter(|before| one_of(before).is_none());
        match moved.count() {
            0 => {}
            1 if !existed => {}
            1 => return Err(Fault::at(place(), "a field was moved into the oneof")),
            _ => return Err(Fault::at(place(), "several fields were moved into the oneof")),
        }
    }
    Ok(())
}
