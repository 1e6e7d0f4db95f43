//! The types of an Avro schema, in a list: a type refers to others by their places, so a recursive schema is no circle.

use std::collections::HashMap;

use apache_avro::schema::{InnerDecimalSchema, Name, NamespaceRef, RecordSchema, Schema, UuidSchema};

use super::logical::{Clock, Unit};
use crate::schema::document::Json;
use crate::schema::fault::Fault;
use crate::schema::limits::{MAX_DEPTH, MAX_DIGITS, MAX_PARTS, MAX_PAYLOAD_BYTES};

/// The place of a type in [`Types`].
pub type Place = usize;

/// A type.
#[derive(Debug, Clone, PartialEq)]
pub enum Type {
    /// Nothing.
    Null,
    /// One byte.
    Boolean,
    /// An integer of 32 bits.
    Int,
    /// An integer of 64 bits.
    Long,
    /// A float of 32 bits.
    Float,
    /// A float of 64 bits.
    Double,
    /// Bytes.
    Bytes,
    /// A string.
    String,
    /// An array of this type.
    Array(Place),
    /// A map from strings to this type.
    Map(Place),
    /// One of several types.
    Union(Vec<Place>),
    /// A record.
    Record(Record),
    /// One of several symbols.
    Enum(Enum),
    /// A number of bytes.
    Fixed(Names, usize),
    /// A decimal number with this precision and scale, in bytes or a fixed.
    Decimal(usize, usize, Option<(Names, usize)>),
    /// A UUID as a string.
    Uuid,
    /// A UUID in 16 bytes.
    UuidFixed(Names),
    /// Days since 1970.
    Date,
    /// The time of day.
    Time(Unit),
    /// A moment, or a local time.
    Timestamp(Clock, Unit),
}

/// The name of a type and its aliases, in full.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Names {
    /// With its namespace.
    pub full: String,
    /// With theirs.
    pub aliases: Vec<String>,
}

impl Names {
    fn of(
        name: &Name,
        aliases: Option<&Vec<apache_avro::schema::Alias>>,
        namespace: NamespaceRef<'_>,
    ) -> Self {
        let own = name.fully_qualified_name(namespace);
        let space = own.namespace();
        let aliases = aliases.into_iter().flatten().map(|alias| alias.fullname(space)).collect();
        Self { full: own.fullname(None), aliases }
    }

    /// The name without its namespace.
    #[must_use]
    pub fn short(&self) -> &str {
        self.full.rsplit('.').next().unwrap_or_default()
    }
}

/// A record.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Its name.
    pub names: Names,
    /// Its fields.
    pub fields: Vec<Field>,
    /// The places of the fields by name.
    pub by_name: HashMap<String, usize>,
}

/// A field of a record.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// Other names under which a reader knows it.
    pub aliases: Vec<String>,
    /// Its type.
    pub of: Place,
    /// Its default, as JSON text.
    pub default: Option<String>,
}

/// An enum.
#[derive(Debug, Clone, PartialEq)]
pub struct Enum {
    /// Its name.
    pub names: Names,
    /// Its symbols.
    pub symbols: Vec<String>,
    /// What a reader takes for an unknown symbol.
    pub default: Option<String>,
}

/// A schema.
#[derive(Debug, Clone, PartialEq)]
pub struct Types {
    all: Vec<Type>,
    /// The type of the whole value.
    pub root: Place,
}

impl Types {
    /// Reads a definition. Its defaults are not checked.
    ///
    /// # Errors
    /// It is no Avro schema, or exceeds a limit.
    pub fn read(definition: &str) -> Result<Self, Fault> {
        // A schema may be the bare name of a primitive type.
        let name = definition.trim();
        let bare;
        let text =
            match name.bytes().all(|byte| byte.is_ascii_lowercase()) && !name.is_empty() && name != "null" {
                true => {
                    bare = format!("\"{name}\"");
                    &bare
                }
                false => definition,
            };
        check_text(text)?;
        let schema = Schema::parse_str(text).map_err(|error| Fault::new(reason(&error)))?;
        let mut builder =
            Builder { types: Self { all: Vec::new(), root: 0 }, named: HashMap::new(), parts: 0 };
        builder.types.root = builder.add(&schema, None, 0)?;
        Ok(builder.types)
    }

    /// The type at a place.
    #[must_use]
    pub fn at(&self, place: Place) -> &Type {
        &self.all[place]
    }

    /// All types.
    pub fn iter(&self) -> impl Iterator<Item = &Type> {
        self.all.iter()
    }
}

/// What the parser of the crate would go too deep into.
fn check_text(text: &str) -> Result<(), Fault> {
    match serde_json::from_str::<serde_json::Value>(text) {
        Err(error) => Err(Fault::at(
            format!("line {} column {}", error.line(), error.column()),
            "the definition is not JSON",
        )),
        Ok(_) => Json::parse(text).map(|_| ()).map_err(|why| Fault::new(why.to_string())),
    }
}

/// The message of an error with those of its causes.
fn reason(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

struct Builder {
    types: Types,
    named: HashMap<String, Place>,
    parts: usize,
}

impl Builder {
    fn count(&mut self, parts: usize, depth: usize) -> Result<(), Fault> {
        self.parts += parts;
        if self.parts > MAX_PARTS {
            return Err(Fault::new(format!(
                "the schema has more than {MAX_PARTS} types, fields and symbols"
            )));
        }
        if depth > MAX_DEPTH {
            return Err(Fault::new(format!("the schema is nested more than {MAX_DEPTH} levels deep")));
        }
        Ok(())
    }

    fn push(&mut self, of: Type) -> Place {
        self.types.all.push(of);
        self.types.all.len() - 1
    }

    fn name(&mut self, names: &Names, place: Place) {
        self.named.insert(names.full.clone(), place);
    }

    fn add(&mut self, schema: &Schema, space: NamespaceRef<'_>, depth: usize) -> Result<Place, Fault> {
        self.count(1, depth)?;
        let simple = match schema {
            Schema::Null => Type::Null,
            Schema::Boolean => Type::Boolean,
            Schema::Int => Type::Int,
            Schema::Long => Type::Long,
            Schema::Float => Type::Float,
            Schema::Double => Type::Double,
            Schema::Bytes | Schema::BigDecimal => Type::Bytes,
            Schema::String => Type::String,
            Schema::Date => Type::Date,
            Schema::TimeMillis => Type::Time(Unit::Millis),
            Schema::TimeMicros => Type::Time(Unit::Micros),
            Schema::TimestampMillis => Type::Timestamp(Clock::Utc, Unit::Millis),
            Schema::TimestampMicros => Type::Timestamp(Clock::Utc, Unit::Micros),
            Schema::TimestampNanos => Type::Timestamp(Clock::Utc, Unit::Nanos),
            Schema::LocalTimestampMillis => Type::Timestamp(Clock::Local, Unit::Millis),
            Schema::LocalTimestampMicros => Type::Timestamp(Clock::Local, Unit::Micros),
            Schema::LocalTimestampNanos => Type::Timestamp(Clock::Local, Unit::Nanos),
            Schema::Uuid(UuidSchema::String) => Type::Uuid,
            Schema::Uuid(UuidSchema::Bytes) => Type::Bytes,
            Schema::Array(array) => Type::Array(self.add(&array.items, space, depth + 1)?),
            Schema::Map(map) => Type::Map(self.add(&map.types, space, depth + 1)?),
            Schema::Union(union) => {
                let branches: Result<Vec<_>, _> =
                    union.variants().iter().map(|branch| self.add(branch, space, depth + 1)).collect();
                Type::Union(branches?)
            }
            Schema::Ref { name } => {
                let full = name.fully_qualified_name(space).fullname(None);
                let known = self.named.get(&full).copied();
                return known.ok_or_else(|| Fault::new(format!("the type {full} is not defined")));
            }
            named => return self.add_named(named, space, depth),
        };
        Ok(self.push(simple))
    }

    fn add_named(&mut self, schema: &Schema, space: NamespaceRef<'_>, depth: usize) -> Result<Place, Fault> {
        let fixed = |fixed: &apache_avro::schema::FixedSchema| {
            if fixed.size > MAX_PAYLOAD_BYTES {
                return Err(Fault::new(format!("a fixed has more than {MAX_PAYLOAD_BYTES} bytes")));
            }
            Ok((Names::of(&fixed.name, fixed.aliases.as_ref(), space), fixed.size))
        };
        let (names, of) = match schema {
            Schema::Record(record) => return self.add_record(record, space, depth),
            Schema::Enum(of) => {
                self.count(of.symbols.len(), depth)?;
                let names = Names::of(&of.name, of.aliases.as_ref(), space);
                let (symbols, default) = (of.symbols.clone(), of.default.clone());
                (names.clone(), Type::Enum(Enum { names, symbols, default }))
            }
            Schema::Fixed(of) | Schema::Duration(of) => {
                let (names, size) = fixed(of)?;
                (names.clone(), Type::Fixed(names, size))
            }
            Schema::Uuid(UuidSchema::Fixed(of)) => {
                let (names, _) = fixed(of)?;
                (names.clone(), Type::UuidFixed(names))
            }
            Schema::Decimal(of) => {
                if of.precision > MAX_DIGITS || of.scale > MAX_DIGITS {
                    return Err(Fault::new(format!("a decimal has more than {MAX_DIGITS} digits")));
                }
                match &of.inner {
                    InnerDecimalSchema::Bytes => {
                        return Ok(self.push(Type::Decimal(of.precision, of.scale, None)));
                    }
                    InnerDecimalSchema::Fixed(inner) => {
                        let (names, size) = fixed(inner)?;
                        (names.clone(), Type::Decimal(of.precision, of.scale, Some((names, size))))
                    }
                }
            }
            _ => return Err(Fault::new("the schema has a type that is not known")),
        };
        let place = self.push(of);
        self.name(&names, place);
        Ok(place)
    }

    fn add_record(
        &mut self,
        of: &RecordSchema,
        space: NamespaceRef<'_>,
        depth: usize,
    ) -> Result<Place, Fault> {
        self.count(of.fields.len(), depth)?;
        let names = Names::of(&of.name, of.aliases.as_ref(), space);
        // Its fields may refer to it.
        let place = self.push(Type::Null);
        self.name(&names, place);
        let own = of.name.fully_qualified_name(space).into_owned();
        let mut fields = Vec::new();
        for field in &of.fields {
            let (name, aliases) = (field.name.clone(), field.aliases.clone());
            let default = field.default.as_ref().map(ToString::to_string);
            let of = self.add(&field.schema, own.namespace(), depth + 1)?;
            fields.push(Field { name, aliases, of, default });
        }
        let by_name = fields.iter().enumerate().map(|(at, field)| (field.name.clone(), at)).collect();
        self.types.all[place] = Type::Record(Record { names, fields, by_name });
        Ok(place)
    }
}
