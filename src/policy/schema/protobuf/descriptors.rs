//! Descriptors of files, which are schemas in their binary form. The compiler trusts them as if they were its own, so they are
//! checked before.

use prost::Message as _;
use prost_reflect::prost_types::{
    DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet,
};

use crate::base64;
use crate::schema::fault::{Fault, shown};
use crate::schema::limits::MAX_PARTS;

/// What a text in base64 holds: the descriptor of a file, which some clients register, or a set of them, as `protoc
/// --descriptor_set_out` writes it, each behind those that it imports.
pub fn read(text: &str) -> Option<Vec<FileDescriptorProto>> {
    let bytes = base64::decode(text.trim().as_bytes())?;
    let file = FileDescriptorProto::decode(&*bytes).ok();
    // A set has its files in the place of a file's name.
    let is_file = |file: &FileDescriptorProto| {
        *file != FileDescriptorProto { name: file.name.clone(), ..Default::default() }
    };
    if let Some(file) = file.filter(is_file) {
        return Some(vec![file]);
    }
    FileDescriptorSet::decode(&*bytes).ok().map(|set| set.file).filter(|files| !files.is_empty())
}

/// Checks what the compiler takes for granted, and bounds what it builds.
pub fn check(file: &FileDescriptorProto) -> Result<(), Fault> {
    if !matches!(file.syntax.as_deref(), None | Some("proto2" | "proto3")) {
        return Err(Fault::new(format!("the syntax {} is unknown", shown(file.syntax()))));
    }
    if file.package.as_deref().is_some_and(|package| !package.is_empty()) {
        file.package().split('.').try_for_each(check_name)?;
    }
    let mut parts = file.extension.len();
    file.enum_type.iter().try_for_each(|of| check_enum(of, &mut parts))?;
    let mut open: Vec<&DescriptorProto> = file.message_type.iter().collect();
    while let Some(message) = open.pop() {
        check_name(message.name())?;
        let fields = message.field.iter().chain(&message.extension).map(|field| field.name());
        fields.chain(message.oneof_decl.iter().map(|oneof| oneof.name())).try_for_each(check_name)?;
        parts += 1 + message.field.len() + message.extension.len() + message.oneof_decl.len();
        message.enum_type.iter().try_for_each(|of| check_enum(of, &mut parts))?;
        open.extend(&message.nested_type);
    }
    if parts > MAX_PARTS { Err(too_many_parts()) } else { Ok(()) }
}

fn check_enum(of: &EnumDescriptorProto, parts: &mut usize) -> Result<(), Fault> {
    *parts += 1 + of.value.len();
    check_name(of.name())?;
    of.value.iter().try_for_each(|value| check_name(value.name()))
}

fn check_name(name: &str) -> Result<(), Fault> {
    let is_letter = |c: char| c.is_ascii_alphabetic() || c == '_';
    let is_name = name.starts_with(is_letter) && name.chars().all(|c| is_letter(c) || c.is_ascii_digit());
    if is_name { Ok(()) } else { Err(Fault::new(format!("{} is no name", shown(name)))) }
}

/// The fault of a schema that is too large.
pub fn too_many_parts() -> Fault {
    Fault::new(format!("the schema has more than {MAX_PARTS} parts"))
}
