//! JSON values in Avro's binary encoding.

use super::logical;
use super::types::{Field, Place, Record, Type, Types};
use crate::base64;
use crate::schema::document::Json;
use crate::schema::fault::{Fault, Path, shown};
use crate::schema::interrupt;
use crate::schema::limits::{MAX_DEPTH, MAX_VALUES};
use crate::schema::numbers;
use crate::schema::output::Output;
use crate::schema::wire::put_long;

/// Encodes one value.
pub struct Encoder<'a> {
    types: &'a Types,
    out: Output<'a>,
    /// How many further values it may visit.
    left: usize,
    /// Bytes are characters up to U+00FF, as defaults in schemas have them. Otherwise they are base64.
    is_default: bool,
}

impl<'a> Encoder<'a> {
    /// Encodes values as applications write them.
    #[must_use]
    pub fn new(types: &'a Types, out: Output<'a>) -> Self {
        Self { types, out, left: MAX_VALUES, is_default: false }
    }

    /// Encodes a default of a schema.
    #[must_use]
    pub fn of_default(types: &'a Types, out: Output<'a>) -> Self {
        Self { is_default: true, ..Self::new(types, out) }
    }

    /// Encodes a value of a type.
    ///
    /// # Errors
    /// The first value that does not fit.
    pub fn value(&mut self, of: Place, json: &Json<'_>, path: &Path<'_>) -> Result<(), Fault> {
        interrupt::after(self.left as u64, 1);
        self.left = self.left.checked_sub(1).ok_or_else(|| path.fault("it has too many values"))?;
        match (self.types.at(of), json) {
            (Type::Null, Json::Null) => Ok(()),
            (Type::Boolean, Json::Boolean(value)) => self.put(&[u8::from(*value)], path),
            (Type::Float, Json::Number(_) | Json::Text(_)) => {
                let value = real(json, numbers::float, |special| special as f32);
                let value = value.ok_or_else(|| lossy(json, "a float of 32 bits", path))?;
                self.put(&value.to_le_bytes(), path)
            }
            (Type::Double, Json::Number(_) | Json::Text(_)) => {
                let value = real(json, numbers::double, |special| special);
                let value = value.ok_or_else(|| lossy(json, "a double", path))?;
                self.put(&value.to_le_bytes(), path)
            }
            (Type::Array(items), Json::Array(elements)) => self.array(*items, elements, path),
            (Type::Map(values), Json::Object(members)) => self.map(*values, members, path),
            (Type::Record(record), Json::Object(members)) => self.record(record, members, path),
            (Type::Union(branches), _) => self.union(branches, json, path),
            (Type::Decimal(precision, scale, fixed), Json::Number(text)) => {
                let size = fixed.as_ref().map(|(_, size)| *size);
                self.decimal(text, *precision, *scale, size, path)
            }
            (of, Json::Number(text)) => self.integer(of, text, path),
            (of, Json::Text(text)) => self.text(of, text, path),
            (of, json) => Err(mismatch(of, json, path)),
        }
    }

    fn put(&mut self, bytes: &[u8], path: &Path<'_>) -> Result<(), Fault> {
        self.out.put(bytes).map_err(|fault| path.fault(fault.reason))
    }

    fn long(&mut self, value: i64, path: &Path<'_>) -> Result<(), Fault> {
        let mut bytes = Vec::with_capacity(10);
        put_long(value, &mut bytes);
        self.put(&bytes, path)
    }

    fn length(&mut self, length: usize, path: &Path<'_>) -> Result<(), Fault> {
        self.long(i64::try_from(length).unwrap_or(i64::MAX), path)
    }

    fn sized(&mut self, bytes: &[u8], path: &Path<'_>) -> Result<(), Fault> {
        self.length(bytes.len(), path)?;
        self.put(bytes, path)
    }

    fn integer(&mut self, of: &Type, text: &str, path: &Path<'_>) -> Result<(), Fault> {
        let value = numbers::integer(text);
        let small = |value: Option<i128>| value.and_then(|value| i32::try_from(value).ok()).map(i64::from);
        let value = match of {
            Type::Int => {
                small(value).ok_or_else(|| lossy(&Json::Number(text), "an integer of 32 bits", path))?
            }
            Type::Date => {
                small(value).ok_or_else(|| path.fault("a date is a string, or a number of days"))?
            }
            Type::Long | Type::Time(_) | Type::Timestamp(..) => value
                .and_then(|value| i64::try_from(value).ok())
                .ok_or_else(|| lossy(&Json::Number(text), "an integer of 64 bits", path))?,
            _ => return Err(mismatch(of, &Json::Number(text), path)),
        };
        self.long(value, path)
    }

    fn text(&mut self, of: &Type, text: &str, path: &Path<'_>) -> Result<(), Fault> {
        let wrong = |what: &str| path.fault(format!("{} is not {what}", shown(text)));
        match of {
            Type::String => self.sized(text.as_bytes(), path),
            Type::Enum(of) => {
                let place = of.symbols.iter().position(|symbol| symbol == text);
                let place = place.ok_or_else(|| wrong(&format!("a symbol of {}", of.names.full)))?;
                self.length(place, path)
            }
            Type::Bytes => {
                let bytes = self.bytes(text).ok_or_else(|| wrong("base64"))?;
                self.sized(&bytes, path)
            }
            Type::Fixed(names, size) => {
                let bytes = self.bytes(text).ok_or_else(|| wrong("base64"))?;
                if bytes.len() != *size {
                    let have = bytes.len();
                    return Err(path.fault(format!("it has {have} bytes, and {} has {size}", names.full)));
                }
                self.put(&bytes, path)
            }
            Type::Uuid | Type::UuidFixed(_) => {
                let uuid: uuid::Uuid = text.parse().map_err(|_| wrong("a UUID"))?;
                if matches!(of, Type::Uuid) {
                    self.sized(text.as_bytes(), path)
                } else {
                    self.put(uuid.as_bytes(), path)
                }
            }
            Type::Date => {
                let days = logical::days(text).ok_or_else(|| wrong("a date"))?;
                self.long(days.into(), path)
            }
            Type::Time(unit) => {
                let count = logical::time_of_day(text, *unit)
                    .ok_or_else(|| wrong("a time of day in that precision"))?;
                self.long(count, path)
            }
            Type::Timestamp(clock, unit) => {
                let count = logical::timestamp(text, *clock, *unit);
                let what = match clock {
                    logical::Clock::Utc => "a time with an offset in that precision",
                    logical::Clock::Local => "a time without an offset in that precision",
                };
                self.long(count.ok_or_else(|| wrong(what))?, path)
            }
            Type::Decimal(precision, scale, fixed) => {
                if !matches!(Json::parse(text), Ok(Json::Number(_))) {
                    return Err(wrong("a decimal"));
                }
                self.decimal(text.trim(), *precision, *scale, fixed.as_ref().map(|(_, size)| *size), path)
            }
            of => Err(mismatch(of, &Json::Text(text.into()), path)),
        }
    }

    /// The bytes that a string stands for.
    fn bytes(&self, text: &str) -> Option<Vec<u8>> {
        if self.is_default {
            return text.chars().map(|character| u8::try_from(u32::from(character)).ok()).collect();
        }
        base64::decode(text.as_bytes())
    }

    fn decimal(
        &mut self,
        text: &str,
        precision: usize,
        scale: usize,
        size: Option<usize>,
        path: &Path<'_>,
    ) -> Result<(), Fault> {
        let lossy = || path.fault(format!("{} does not fit into decimal({precision}, {scale})", shown(text)));
        let bytes = numbers::unscaled(text, precision, scale).ok_or_else(lossy)?;
        let Some(size) = size else { return self.sized(&bytes, path) };
        let padding = size.checked_sub(bytes.len()).ok_or_else(lossy)?;
        let sign = if bytes[0] & 0x80 == 0 { 0 } else { 0xff };
        self.put(&vec![sign; padding], path)?;
        self.put(&bytes, path)
    }

    fn array(&mut self, items: Place, elements: &[Json<'_>], path: &Path<'_>) -> Result<(), Fault> {
        if !elements.is_empty() {
            self.length(elements.len(), path)?;
        }
        for (at, element) in elements.iter().enumerate() {
            self.value(items, element, &Path::Element(path, at))?;
        }
        self.long(0, path)
    }

    fn map(&mut self, values: Place, members: &[Member<'_>], path: &Path<'_>) -> Result<(), Fault> {
        if !members.is_empty() {
            self.length(members.len(), path)?;
        }
        for (name, value) in members {
            self.sized(name.as_bytes(), path)?;
            self.value(values, value, &Path::Member(path, name))?;
        }
        self.long(0, path)
    }

    fn record(&mut self, record: &Record, members: &[Member<'_>], path: &Path<'_>) -> Result<(), Fault> {
        let mut found: Vec<Option<&Json<'_>>> = vec![None; record.fields.len()];
        for (name, value) in members {
            let place = record.by_name.get(&**name).ok_or_else(|| {
                let within = &record.names.full;
                Path::Member(path, name).fault(format!("{within} has no field of this name"))
            })?;
            found[*place] = Some(value);
        }
        for (field, value) in record.fields.iter().zip(found) {
            let path = Path::Member(path, &field.name);
            match value {
                Some(value) => self.value(field.of, value, &path)?,
                None => self.default(field, &path)?,
            }
        }
        Ok(())
    }

    fn default(&mut self, field: &Field, path: &Path<'_>) -> Result<(), Fault> {
        let missing = || path.fault("it is missing, and has no default");
        let text = field.default.as_ref().ok_or_else(missing)?;
        if path.depth() > MAX_DEPTH {
            return Err(path.fault(format!("defaults are nested more than {MAX_DEPTH} levels deep")));
        }
        let json = Json::parse(text).map_err(|why| path.fault(why.to_string()))?;
        let is_default = std::mem::replace(&mut self.is_default, true);
        let done = self.value(field.of, &json, path);
        self.is_default = is_default;
        done
    }

    /// Takes the first branch that the value fits. A string is text rather than bytes. An object whose only member is the name
    /// of a branch may be the value of that branch, as in Avro's own JSON.
    fn union(&mut self, branches: &[Place], json: &Json<'_>, path: &Path<'_>) -> Result<(), Fault> {
        let mut faults = Vec::new();
        if let Json::Object(members) = json
            && let [(name, value)] = &members[..]
            && let Some(at) = branches.iter().position(|branch| self.is_named(*branch, name))
            && self.branch(at, branches[at], value, path, &mut faults)
        {
            return Ok(());
        }
        faults.clear();
        let is_late =
            |of: &Type| matches!(of, Type::Bytes | Type::Fixed(..)) && matches!(json, Json::Text(_));
        for late in [false, true] {
            for (at, branch) in branches.iter().enumerate() {
                let of = self.types.at(*branch);
                if is_late(of) == late && takes(of, json) && self.branch(at, *branch, json, path, &mut faults)
                {
                    return Ok(());
                }
            }
        }
        match (faults.pop(), faults.is_empty()) {
            // Only one could have been meant.
            (Some(fault), true) => Err(fault),
            (None, _) => {
                let names: Vec<_> = branches.iter().map(|branch| describe(self.types.at(*branch))).collect();
                Err(path.fault(format!("{} is none of: {}", json.kind(), names.join(", "))))
            }
            (Some(last), false) => {
                Err(Fault::at(last.place, format!("no branch of the union fits; the last: {}", last.reason)))
            }
        }
    }

    /// Tries a branch. One that fails costs more than the values that were visited, since its fault is described.
    fn branch(
        &mut self,
        at: usize,
        of: Place,
        json: &Json<'_>,
        path: &Path<'_>,
        faults: &mut Vec<Fault>,
    ) -> bool {
        const COST: usize = 50;
        let begin = self.out.len();
        match self.length(at, path).and_then(|()| self.value(of, json, path)) {
            Ok(()) => true,
            Err(fault) => {
                self.out.truncate(begin);
                self.left = self.left.saturating_sub(COST);
                faults.push(fault);
                false
            }
        }
    }

    /// Whether a branch has this name, with or without its namespace.
    fn is_named(&self, branch: Place, name: &str) -> bool {
        let full = describe(self.types.at(branch));
        full != "null" && (full == name || full.rsplit('.').next() == Some(name))
    }
}

type Member<'a> = (std::borrow::Cow<'a, str>, Json<'a>);

/// The number in a JSON value, or what one of the strings for special values stands for.
fn real<T>(json: &Json<'_>, number: fn(&str) -> Option<T>, special: fn(f64) -> T) -> Option<T> {
    match json {
        Json::Number(text) => number(text),
        Json::Text(text) => numbers::special_value(text).map(special),
        _ => None,
    }
}

fn lossy(json: &Json<'_>, what: &str, path: &Path<'_>) -> Fault {
    match json {
        Json::Number(text) => path.fault(format!("{text} cannot be held by {what} without loss")),
        json => path.fault(format!("{} is not {what}", json.kind())),
    }
}

fn mismatch(of: &Type, json: &Json<'_>, path: &Path<'_>) -> Fault {
    path.fault(format!("{} is not of the type {}", json.kind(), describe(of)))
}

/// Whether a value may fit a type, by its kind.
fn takes(of: &Type, json: &Json<'_>) -> bool {
    match json {
        Json::Null => matches!(of, Type::Null),
        Json::Boolean(_) => matches!(of, Type::Boolean),
        Json::Array(_) => matches!(of, Type::Array(_)),
        Json::Object(members) => match of {
            Type::Map(_) => true,
            // Most alternatives differ in the names of their fields.
            Type::Record(record) => members.iter().all(|(name, _)| record.by_name.contains_key(&**name)),
            _ => false,
        },
        Json::Number(_) => matches!(
            of,
            Type::Int
                | Type::Long
                | Type::Float
                | Type::Double
                | Type::Decimal(..)
                | Type::Date
                | Type::Time(_)
                | Type::Timestamp(..)
        ),
        Json::Text(text) => match of {
            Type::Float | Type::Double => numbers::special_value(text).is_some(),
            of => !matches!(
                of,
                Type::Null
                    | Type::Boolean
                    | Type::Int
                    | Type::Long
                    | Type::Array(_)
                    | Type::Map(_)
                    | Type::Record(_)
                    | Type::Union(_)
            ),
        },
    }
}

/// The name of a type.
#[must_use]
pub fn describe(of: &Type) -> &str {
    match of {
        Type::Null => "null",
        Type::Boolean => "boolean",
        Type::Int | Type::Date | Type::Time(logical::Unit::Millis) => "int",
        Type::Long | Type::Time(_) | Type::Timestamp(..) => "long",
        Type::Float => "float",
        Type::Double => "double",
        Type::Bytes | Type::Decimal(_, _, None) => "bytes",
        Type::String | Type::Uuid => "string",
        Type::Array(_) => "array",
        Type::Map(_) => "map",
        Type::Union(_) => "union",
        Type::Record(of) => &of.names.full,
        Type::Enum(of) => &of.names.full,
        Type::Fixed(names, _) | Type::UuidFixed(names) | Type::Decimal(_, _, Some((names, _))) => &names.full,
    }
}
