//! Protobuf: its schemas, and JSON values as its binary encoding has them.
//!
//! JSON is that of proto3's mapping, with the fields' own names; both these and those in camel case are read. Integers of 64
//! bits are numbers, since jsonb holds them exactly.

pub mod compatibility;
pub mod decode;
mod descriptors;
pub mod encode;
pub mod scalars;

use std::collections::HashMap;

use prost_reflect::prost_types::FileDescriptorProto;
use prost_reflect::{DescriptorPool, EnumDescriptor, FileDescriptor, MessageDescriptor};
use protox::Compiler;
use protox::file::{File, FileResolver, GoogleFileResolver};

use descriptors::too_many_parts;

use super::fault::{Fault, shown};
use super::limits::{MAX_DEPTH, MAX_PARTS};
use super::proto_files;

/// The name under which the definition is compiled.
const FILE: &str = "schema.proto";

/// A compiled schema.
#[derive(Debug, Clone)]
pub struct Schema {
    file: FileDescriptor,
}

impl Schema {
    /// Compiles a definition: the text of a file, which may import the well-known types of Google's and those that follow it, or
    /// its descriptor in base64, or a set of descriptors, the last of which is the schema.
    ///
    /// # Errors
    /// It is no Protobuf schema, has no message, or exceeds a limit.
    pub fn compile(definition: &str) -> Result<Self, Fault> {
        check_size(definition)?;
        let mut compiler = Compiler::with_file_resolver(Definition::of(definition)?);
        compiler.include_imports(true).include_source_info(false);
        compiler.open_file(FILE).map_err(|error| fault(&error))?;
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
struct Definition(HashMap<String, Source>);

/// A file.
enum Source {
    Text(String),
    Descriptor(Box<FileDescriptorProto>),
}

impl Definition {
    fn of(definition: &str) -> Result<Self, Fault> {
        let (first, others) = proto_files::split(definition);
        let mut files = HashMap::new();
        for (name, text) in std::iter::once((FILE, first)).chain(others) {
            let Some(mut descriptors) = descriptors::read(text) else {
                files.insert(name.to_owned(), Source::Text(text.to_owned()));
                continue;
            };
            descriptors.iter().try_for_each(descriptors::check)?;
            let last = descriptors.pop();
            for other in descriptors {
                files.entry(other.name().to_owned()).or_insert(Source::Descriptor(Box::new(other)));
            }
            if let Some(last) = last {
                files.insert(name.to_owned(), Source::Descriptor(Box::new(last)));
            }
        }
        Ok(Self(files))
    }
}

impl FileResolver for Definition {
    fn resolve_path(&self, path: &std::path::Path) -> Option<String> {
        path.to_str().map(str::to_owned)
    }

    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        match (GoogleFileResolver::new().open_file(name), self.0.get(name)) {
            // Values of these types are read as the real ones have them.
            (Ok(file), _) => Ok(file),
            (_, Some(Source::Text(text))) => File::from_source(name, text),
            (_, Some(Source::Descriptor(descriptor))) => {
                let mut descriptor = (**descriptor).clone();
                // It is known by the name of its reference.
                descriptor.name = Some(name.to_owned());
                Ok(File::from_file_descriptor_proto(descriptor))
            }
            (error, None) => error,
        }
    }
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
    if parts > MAX_PARTS { Err(too_many_parts()) } else { Ok(()) }
}

fn check_parts(file: &FileDescriptor) -> Result<(), Fault> {
    let values = |of: EnumDescriptor| of.values().len() + 1;
    let mut parts: usize = file.enums().map(values).sum();
    let mut open: Vec<MessageDescriptor> = file.messages().collect();
    while let Some(message) = open.pop() {
        parts += 1 + message.fields().len() + message.child_enums().map(values).sum::<usize>();
        open.extend(message.child_messages());
    }
    if parts > MAX_PARTS { Err(too_many_parts()) } else { Ok(()) }
}

/// The error of the compiler, with its place.
fn fault(error: &protox::Error) -> Fault {
    let text = format!("{error:?}");
    let reason = error.to_string();
    // The compiler shows the place only in its long form, which begins with it.
    let place = text.strip_prefix(FILE).and_then(|rest| rest.strip_prefix(':')).map(|rest| {
        let mut numbers = rest.splitn(3, ':');
        let line = numbers.next().unwrap_or_default();
        let column = numbers.next().unwrap_or_default();
        format!("line {line} column {column}")
    });
    Fault { place: place.unwrap_or_default(), reason }
}
