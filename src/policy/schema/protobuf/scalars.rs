//! JSON values as Protobuf's scalars.

use prost_reflect::{Kind, Syntax};

use crate::base64;
use crate::schema::document::Json;
use crate::schema::fault::{Fault, Path, shown};
use crate::schema::numbers;

/// How a value lies on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// A number of up to ten bytes.
    Varint,
    /// Eight bytes.
    Eight,
    /// A length and as many bytes.
    Sized,
    /// The fields of a message up to its end.
    Group,
    /// Four bytes.
    Four,
}

impl Wire {
    /// Its number in the key of a field.
    #[must_use]
    pub fn number(self) -> u64 {
        match self {
            Self::Varint => 0,
            Self::Eight => 1,
            Self::Sized => 2,
            Self::Group => 3,
            Self::Four => 5,
        }
    }
}

/// A scalar on the wire. The length of what has one is not yet before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scalar {
    /// How it lies there.
    pub wire: Wire,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Whether it is what a missing field means.
    pub is_default: bool,
}

/// Appends a number of variable length.
pub fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// The value as a scalar of this kind.
///
/// # Errors
/// It is none, or the kind cannot hold it.
pub fn scalar(kind: &Kind, json: &Json<'_>, path: &Path<'_>) -> Result<Scalar, Fault> {
    match kind {
        Kind::Bool => match json {
            Json::Boolean(value) => Ok(varint(u64::from(*value))),
            _ => Err(mismatch("a boolean", json, path)),
        },
        Kind::String => match json {
            Json::Text(text) => Ok(sized(text.as_bytes().to_vec())),
            _ => Err(mismatch("a string", json, path)),
        },
        Kind::Bytes => match json {
            Json::Text(text) => {
                let bytes = base64::decode(text.replace('-', "+").replace('_', "/").as_bytes());
                bytes.map(sized).ok_or_else(|| path.fault(format!("{} is not base64", shown(text))))
            }
            _ => Err(mismatch("a string in base64", json, path)),
        },
        Kind::Float => {
            let value = match json {
                Json::Number(text) => numbers::float(text).ok_or_else(|| lossy(text, "a float", path))?,
                Json::Text(text) => special(text, json, path)? as f32,
                _ => return Err(mismatch("a number", json, path)),
            };
            let bytes = value.to_le_bytes();
            Ok(Scalar { wire: Wire::Four, bytes: bytes.to_vec(), is_default: bytes == [0; 4] })
        }
        Kind::Double => {
            let value = match json {
                Json::Number(text) => numbers::double(text).ok_or_else(|| lossy(text, "a double", path))?,
                Json::Text(text) => special(text, json, path)?,
                _ => return Err(mismatch("a number", json, path)),
            };
            let bytes = value.to_le_bytes();
            Ok(Scalar { wire: Wire::Eight, bytes: bytes.to_vec(), is_default: bytes == [0; 8] })
        }
        Kind::Enum(of) => {
            let number = match json {
                Json::Null if of.full_name() == "google.protobuf.NullValue" => 0,
                Json::Text(name) => {
                    let value = of.get_value_by_name(name);
                    let unknown = || path.fault(format!("{} is no value of {}", shown(name), of.full_name()));
                    value.ok_or_else(unknown)?.number()
                }
                Json::Number(text) => {
                    let number = small(text, path)?;
                    if of.parent_file().syntax() == Syntax::Proto2 && of.get_value(number).is_none() {
                        return Err(path.fault(format!("{number} is no value of {}", of.full_name())));
                    }
                    number
                }
                _ => return Err(mismatch("the name of a value, or its number", json, path)),
            };
            let default = of.default_value().number();
            Ok(Scalar { is_default: number == default, ..varint(i64::from(number).cast_unsigned()) })
        }
        Kind::Message(of) => Err(mismatch(of.full_name(), json, path)),
        integer => whole(integer, json, path),
    }
}

fn whole(kind: &Kind, json: &Json<'_>, path: &Path<'_>) -> Result<Scalar, Fault> {
    let text = match json {
        Json::Number(text) => *text,
        // As proto3's JSON writes integers of 64 bits.
        Json::Text(text) if matches!(Json::parse(text), Ok(Json::Number(_))) => text.trim(),
        _ => return Err(mismatch("a number", json, path)),
    };
    let value = numbers::integer(text);
    let (signed, unsigned) = (
        value.and_then(|value| i64::try_from(value).ok()),
        value.and_then(|value| u64::try_from(value).ok()),
    );
    let int = || {
        signed
            .and_then(|value| i32::try_from(value).ok())
            .ok_or_else(|| lossy(text, "an integer of 32 bits", path))
    };
    let long = || signed.ok_or_else(|| lossy(text, "an integer of 64 bits", path));
    let uint = || {
        let value = unsigned.and_then(|value| u32::try_from(value).ok());
        value.ok_or_else(|| lossy(text, "an unsigned integer of 32 bits", path))
    };
    let ulong = || unsigned.ok_or_else(|| lossy(text, "an unsigned integer of 64 bits", path));
    let four =
        |bytes: [u8; 4]| Scalar { wire: Wire::Four, bytes: bytes.to_vec(), is_default: bytes == [0; 4] };
    let eight =
        |bytes: [u8; 8]| Scalar { wire: Wire::Eight, bytes: bytes.to_vec(), is_default: bytes == [0; 8] };
    Ok(match kind {
        Kind::Int32 => varint(i64::from(int()?).cast_unsigned()),
        Kind::Int64 => varint(long()?.cast_unsigned()),
        Kind::Uint32 => varint(uint()?.into()),
        Kind::Uint64 => varint(ulong()?),
        Kind::Sint32 => int().map(|value| varint(((value << 1) ^ (value >> 31)).cast_unsigned().into()))?,
        Kind::Sint64 => long().map(|value| varint(((value << 1) ^ (value >> 63)).cast_unsigned()))?,
        Kind::Fixed32 => four(uint()?.to_le_bytes()),
        Kind::Sfixed32 => four(int()?.to_le_bytes()),
        Kind::Fixed64 => eight(ulong()?.to_le_bytes()),
        _ => eight(long()?.to_le_bytes()),
    })
}

fn varint(value: u64) -> Scalar {
    let mut bytes = Vec::with_capacity(10);
    put_varint(value, &mut bytes);
    Scalar { wire: Wire::Varint, bytes, is_default: value == 0 }
}

fn sized(bytes: Vec<u8>) -> Scalar {
    Scalar { wire: Wire::Sized, is_default: bytes.is_empty(), bytes }
}

fn small(text: &str, path: &Path<'_>) -> Result<i32, Fault> {
    let value = numbers::integer(text).and_then(|value| i32::try_from(value).ok());
    value.ok_or_else(|| lossy(text, "an integer of 32 bits", path))
}

/// What a string means for a float: a special value, or a number.
fn special(text: &str, json: &Json<'_>, path: &Path<'_>) -> Result<f64, Fault> {
    let number =
        || matches!(Json::parse(text), Ok(Json::Number(_))).then(|| numbers::double(text.trim())).flatten();
    numbers::special_value(text).or_else(number).ok_or_else(|| mismatch("a number", json, path))
}

fn lossy(text: &str, what: &str, path: &Path<'_>) -> Fault {
    path.fault(format!("{text} cannot be held by {what} without loss"))
}

/// A value of another kind than is wanted.
pub fn mismatch(wanted: &str, json: &Json<'_>, path: &Path<'_>) -> Fault {
    let is = match json {
        Json::Text(text) => shown(text),
        json => json.kind().to_owned(),
    };
    path.fault(format!("{is} is not {wanted}"))
}
