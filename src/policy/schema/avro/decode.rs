//! Avro's binary encoding as JSON. What is decoded may be anybody's: it can be wrong in any way, and make no more than a
//! limited document.

use super::logical;
use super::types::{Place, Type, Types};
use crate::schema::fault::{Fault, Path};
use crate::schema::interrupt;
use crate::schema::limits::{MAX_DEPTH, MAX_VALUES};
use crate::schema::numbers;
use crate::schema::output::Output;
use crate::schema::wire::take_long;

/// Decodes one value.
pub struct Decoder<'a> {
    types: &'a Types,
    out: Output<'a>,
    rest: &'a [u8],
    /// How many further values it may visit.
    left: usize,
}

impl<'a> Decoder<'a> {
    /// Decodes these bytes.
    #[must_use]
    pub fn new(types: &'a Types, bytes: &'a [u8], out: Output<'a>) -> Self {
        Self { types, out, rest: bytes, left: MAX_VALUES }
    }

    /// Decodes all of the bytes as one value of the schema.
    ///
    /// # Errors
    /// They are not its encoding.
    pub fn decode(mut self) -> Result<(), Fault> {
        self.value(self.types.root, &Path::Root, 0)?;
        match self.rest.len() {
            0 => Ok(()),
            more => Err(Fault::new(format!("{more} bytes follow the value"))),
        }
    }

    fn value(&mut self, of: Place, path: &Path<'_>, depth: usize) -> Result<(), Fault> {
        interrupt::after(self.left as u64, 1);
        self.left = self.left.checked_sub(1).ok_or_else(|| path.fault("it has too many values"))?;
        if depth > MAX_DEPTH {
            return Err(path.fault(format!("it is nested more than {MAX_DEPTH} levels deep")));
        }
        match self.types.at(of) {
            Type::Array(items) => self.blocks(b"[]", path, |decoder, at| {
                decoder.value(*items, &Path::Element(path, at), depth + 1)
            }),
            Type::Map(values) => self.blocks(b"{}", path, |decoder, _| {
                let name = decoder.text(path)?;
                decoder.out.put_string(name)?;
                decoder.out.put(b":")?;
                decoder.value(*values, &Path::Member(path, name), depth + 1)
            }),
            Type::Union(branches) => {
                let place = usize::try_from(self.long(path)?).ok();
                let branch = place.and_then(|place| branches.get(place));
                let branch = *branch.ok_or_else(|| path.fault("it is no branch of the union"))?;
                self.value(branch, path, depth + 1)
            }
            Type::Record(of) => {
                for (at, field) in of.fields.iter().enumerate() {
                    self.out.put(if at == 0 { b"{" } else { b"," })?;
                    self.out.put_string(&field.name)?;
                    self.out.put(b":")?;
                    self.value(field.of, &Path::Member(path, &field.name), depth + 1)?;
                }
                self.out.put(if of.fields.is_empty() { b"{}" } else { b"}" })
            }
            simple => self.simple(simple, path),
        }
    }

    /// A value that contains no others.
    fn simple(&mut self, of: &Type, path: &Path<'_>) -> Result<(), Fault> {
        match of {
            Type::Null => self.out.put(b"null"),
            Type::Boolean => match self.take(1, path)? {
                [0] => self.out.put(b"false"),
                [1] => self.out.put(b"true"),
                _ => Err(path.fault("it is not a boolean")),
            },
            Type::Int => {
                let value = i32::try_from(self.long(path)?);
                let value = value.map_err(|_| path.fault("it is not an integer of 32 bits"))?;
                self.out.put(value.to_string().as_bytes())
            }
            Type::Long => {
                let value = self.long(path)?;
                self.out.put(value.to_string().as_bytes())
            }
            Type::Float | Type::Double => self.real(of, path),
            Type::Bytes => {
                let bytes = self.sized(path)?;
                self.out.put_base64(bytes)
            }
            Type::Fixed(_, size) => {
                let bytes = self.take(*size, path)?;
                self.out.put_base64(bytes)
            }
            Type::String | Type::Uuid => {
                let text = self.text(path)?;
                self.out.put_string(text)
            }
            Type::UuidFixed(_) => {
                let bytes = self.take(16, path)?;
                let uuid = uuid::Uuid::from_slice(bytes).map_err(|_| path.fault("it is not a UUID"))?;
                self.out.put_string(&uuid.to_string())
            }
            Type::Enum(of) => {
                let place = usize::try_from(self.long(path)?).ok();
                let symbol = place.and_then(|place| of.symbols.get(place));
                let symbol =
                    symbol.ok_or_else(|| path.fault(format!("it is no symbol of {}", of.names.full)))?;
                self.out.put_string(symbol)
            }
            other => self.logical(other, path),
        }
    }

    fn real(&mut self, of: &Type, path: &Path<'_>) -> Result<(), Fault> {
        let mut text = String::new();
        if matches!(of, Type::Float) {
            let bytes = self.take(4, path)?;
            numbers::put_float(f32::from_le_bytes(bytes.try_into().unwrap_or_default()), &mut text);
        } else {
            let bytes = self.take(8, path)?;
            numbers::put_double(f64::from_le_bytes(bytes.try_into().unwrap_or_default()), &mut text);
        }
        self.out.put(text.as_bytes())
    }

    fn logical(&mut self, of: &Type, path: &Path<'_>) -> Result<(), Fault> {
        if let Type::Decimal(_, scale, fixed) = of {
            let bytes = match fixed {
                None => self.sized(path)?,
                Some((_, size)) => self.take(*size, path)?,
            };
            let text = numbers::decimal(bytes, *scale);
            return self.out.put(text.ok_or_else(|| path.fault("the decimal is too long"))?.as_bytes());
        }
        let count = self.long(path)?;
        let text = match of {
            Type::Date => i32::try_from(count).ok().and_then(logical::date),
            Type::Time(unit) => logical::clock_time(count, *unit),
            Type::Timestamp(clock, unit) => logical::timestamp_text(count, *clock, *unit),
            _ => None,
        };
        match text {
            Some(text) => self.out.put_string(&text),
            // What has no text stays a number.
            None => self.out.put(count.to_string().as_bytes()),
        }
    }

    /// The blocks of an array or a map, between these brackets.
    fn blocks(
        &mut self,
        brackets: &[u8; 2],
        path: &Path<'_>,
        mut each: impl FnMut(&mut Self, usize) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        self.out.put(&brackets[..1])?;
        let mut at = 0;
        loop {
            let count = self.long(path)?;
            if count == 0 {
                break;
            }
            if count < 0 {
                // The block's length in bytes, for those who skip it.
                self.long(path)?;
            }
            for _ in 0..count.unsigned_abs() {
                if at > 0 {
                    self.out.put(b",")?;
                }
                each(self, at)?;
                at += 1;
            }
        }
        self.out.put(&brackets[1..])
    }

    fn take(&mut self, count: usize, path: &Path<'_>) -> Result<&'a [u8], Fault> {
        let found = self.rest.split_at_checked(count);
        let (taken, rest) = found.ok_or_else(|| path.fault("the bytes end in it"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn long(&mut self, path: &Path<'_>) -> Result<i64, Fault> {
        take_long(&mut self.rest).ok_or_else(|| path.fault("the bytes end in it, or it is no number"))
    }

    fn sized(&mut self, path: &Path<'_>) -> Result<&'a [u8], Fault> {
        let length = usize::try_from(self.long(path)?);
        self.take(length.map_err(|_| path.fault("its length is negative"))?, path)
    }

    fn text(&mut self, path: &Path<'_>) -> Result<&'a str, Fault> {
        let bytes = self.sized(path)?;
        std::str::from_utf8(bytes).map_err(|_| path.fault("it is not valid UTF-8"))
    }
}
