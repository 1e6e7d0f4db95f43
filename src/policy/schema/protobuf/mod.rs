//! Protobuf: its schemas, and JSON values as its binary encoding has them.
//!
//! JSON is that of proto3's mapping, with the fields' own names; both these and those in camel case are read. Integers of 64
//! bits are numbers, since jsonb holds them exactly.

pub mod compatibility;
pub mod decode;
pub mod encode;
pub mod scalars;

use prost_reflect::{DescriptorPool, EnumDescriptor, FileDescriptor, MessageDescriptor};
use protox::Compiler;
use protox::file::{File, FileResolver, GoogleFileResolver};

use super::fault::{Fault, shown};
use super::limits::{MAX_DEPTH, MAX_PARTS};
use super::proto_files;
use crate::base64;

/// The name under which the definition is compiled.
const FILE: &str = "schema.proto";

/// A compiled schema.
#[derive(Debug, Clone)]
pub struct Schema {
    file: FileDescriptor,
}

impl Schema {
    /// Compiles a definition: the text of a file, which may import the well-known types of Google's and those that follow it, or
    /// its descriptor in base64.
    ///
    /// # Errors
    /// It is no Protobuf schema, has no message, or exceeds a limit.
    pub fn compile(definition: &str) -> Result<Self, Fault> {
        check_size(definition)?;
        let mut compiler = Compiler::with_file_resolver(Definition(definition.to_owned()));
        compiler.include_imports(true).include_source_info(false);
        compiler.open_file(FILE).map_err(|error| fault(definition, &error))?;
        let pool = compiler.descriptor_pool();
        let file = pool.get_file_by_name(FILE).ok_or_else(|| Fault::new("the definition is not compiled"))?;
        if file.messages().len() == 0 {
            return Err(Fault::new("the schema defines no message"));
        }
        check_parts(&file)?;
        Ok(Self { file })
    }

    /// The message of this name, with or without the package; the first of the schema if there is no name.
    ///
    /// # Errors
    /// There is no such message.
    pub fn message(&self, name: Option<&str>) -> Result<MessageDescriptor, Fault> {
        let Some(name) = name else {
            return self.file.messages().next().ok_or_else(|| Fault::new("the schema defines no message"));
        };
        let full = match self.file.package_name() {
            "" => name.to_owned(),
            package => format!("{package}.{name}"),
        };
        let of_file = |message: &MessageDescriptor| message.parent_file() == self.file;
        let found =
            [name, &full].into_iter().find_map(|name| self.pool().get_message_by_name(name).filter(of_file));
        found.ok_or_else(|| Fault::new(format!("the schema defines no message {}", shown(name))))
    }

    /// The message at this place.
    #[must_use]
    pub fn message_at(&self, indexes: &[i32]) -> Option<MessageDescriptor> {
        let (first, further) = indexes.split_first()?;
        let mut message = self.file.messages().nth(usize::try_from(*first).ok()?)?;
        for index in further {
            let child = message.child_messages().nth(usize::try_from(*index).ok()?);
            message = child?;
        }
        Some(message)
    }

    fn pool(&self) -> &DescriptorPool {
        self.file.parent_pool()
    }
}

/// The place of a message in its file: its number among its siblings, from outside.
#[must_use]
pub fn indexes(message: &MessageDescriptor) -> Vec<i32> {
    // A descriptor's path has the number of the list before each place in it.
    message.path().iter().skip(1).step_by(2).copied().collect()
}

/// Knows the files of the definition, and Google's well-known ones. Nothing is read from a disk.
struct Definition(String);

impl FileResolver for Definition {
    fn resolve_path(&self, path: &std::path::Path) -> Option<String> {
        path.to_str().map(str::to_owned)
    }

    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        let (first, others) = proto_files::split(&self.0);
        match others.iter().find(|(of, _)| *of == name) {
            _ if name == FILE => file(name, first),
            Some((_, other)) => file(name, other),
            None => GoogleFileResolver::new().open_file(name),
        }
    }
}

/// A file, as text or as its descriptor in base64, which some clients register.
fn file(name: &str, definition: &str) -> Result<File, protox::Error> {
    let descriptor = base64::decode(definition.trim().as_bytes())
        .and_then(|bytes| File::decode_file_descriptor_proto(&*bytes).ok());
    let Some(descriptor) = descriptor else { return File::from_source(name, definition) };
    let mut proto = descriptor.file_descriptor_proto().clone();
    // It is known by the name of its reference.
    proto.name = Some(name.to_owned());
    Ok(File::from_file_descriptor_proto(proto))
}

/// Bounds what the parser and the compiler recurse into and build, before they run.
fn check_size(definition: &str) -> Result<(), Fault> {
    let mut depth = 0_usize;
    let mut parts = 0_usize;
    for byte in definition.bytes() {
        match byte {
            b'{' | b'[' | b'(' | b'<' => depth += 1,
            b'}' | b']' | b')' | b'>' => depth = depth.saturating_sub(1),
            b';' => parts += 1,
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err(Fault::new(format!("the schema is nested more than {MAX_DEPTH} levels deep")));
        }
    }
    if parts > MAX_PARTS {
        return Err(Fault::new(format!("the schema has more than {MAX_PARTS} parts")));
    }
    Ok(())
}

fn check_parts(file: &FileDescriptor) -> Result<(), Fault> {
    let values = |of: EnumDescriptor| of.values().len() + 1;
    let mut parts: usize = file.enums().map(values).sum();
    let mut open: Vec<MessageDescriptor> = file.messages().collect();
    while let Some(message) = open.pop() {
        parts += 1 + message.fields().len() + message.child_enums().map(values).sum::<usize>();
        open.extend(message.child_messages());
    }
    if parts > MAX_PARTS {
        return Err(Fault::new(format!("the schema has more than {MAX_PARTS} parts")));
    }
    Ok(())
}

/// The error of the compiler, with its place.
fn fault(definition: &str, error: &protox::Error) -> Fault {
    let text = format!("{error:?}");
    let reason = error.to_string();
    // The compiler shows the place only in its long form, which begins with it.
    let place = text.strip_prefix(FILE).and_then(|rest| rest.strip_prefix(':')).map(|rest| {
        let mut numbers = rest.splitn(3, ':');
        let line = numbers.next().unwrap_or_default();
        let column = numbers.next().unwrap_or_default();
        format!("line {line} column {column}")
    });
    let _ = definition;
    Fault { place: place.unwrap_or_default(), reason }
}
