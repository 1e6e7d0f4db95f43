//! Owns the reading of a jsonb document that is an object, or an array of objects, without making text of it.
//!
//! Runs in: client backends.

use pgrx::prelude::*;

/// The value of a member of an object.
#[derive(Debug, Clone, Copy)]
pub enum Value<'a> {
    /// `null`.
    Null,
    /// A string.
    Text(&'a str),
    /// An object, as a jsonb.
    Object(pg_sys::Datum),
    /// Anything else, as a jsonb.
    Other(pg_sys::Datum),
}

impl Value<'_> {
    /// The value as a jsonb; `None` for `null`.
    #[must_use]
    pub fn document(self) -> Option<pg_sys::Datum> {
        match self {
            Self::Null => None,
            Self::Object(value) | Self::Other(value) => Some(value),
            Self::Text(text) => {
                let mut value = pg_sys::JsonbValue {
                    type_: pg_sys::jbvType::jbvString,
                    val: pg_sys::JsonbValue__bindgen_ty_1 {
                        string: pg_sys::JsonbValue__bindgen_ty_1__bindgen_ty_1 {
                            len: i32::try_from(text.len()).unwrap_or(i32::MAX),
                            val: text.as_ptr().cast_mut().cast(),
                        },
                    },
                };
                // SAFETY: the text is alive, and is copied.
                Some(unsafe { pg_sys::Datum::from(pg_sys::JsonbValueToJsonb(&mut value)) })
            }
        }
    }
}

/// What a document consists of.
#[derive(Debug, Clone, Copy)]
pub enum Part<'a> {
    /// An object begins.
    Begin,
    /// It has this member.
    Member(&'a str, Value<'a>),
    /// It ends.
    End,
    /// There is something else than an object.
    Stranger,
}

/// Shows the parts of a document that is an object, or an array of objects, until `visit` returns `false`.
///
/// # Safety
/// The document is a jsonb in UTF-8. It and the memory context live as long as what is shown is used.
pub unsafe fn visit_objects<'a>(document: pg_sys::Datum, mut visit: impl FnMut(Part<'a>) -> bool) {
    use pg_sys::JsonbIteratorToken as Token;
    // SAFETY: as promised by the caller. The iterator fills the value as its token says.
    unsafe {
        let document = pg_sys::pg_detoast_datum(document.cast_mut_ptr()).cast::<pg_sys::Jsonb>();
        let mut iterator = pg_sys::JsonbIteratorInit(&raw mut (*document).root);
        let mut value = std::mem::zeroed::<pg_sys::JsonbValue>();
        let (mut is_inside, mut is_first, mut key) = (false, true, "");
        loop {
            let part = match pg_sys::JsonbIteratorNext(&mut iterator, &mut value, is_inside) {
                Token::WJB_BEGIN_ARRAY if is_first && !value.val.array.rawScalar => None,
                Token::WJB_END_ARRAY => None,
                Token::WJB_BEGIN_OBJECT => {
                    is_inside = true;
                    Some(Part::Begin)
                }
                Token::WJB_END_OBJECT => {
                    is_inside = false;
                    Some(Part::End)
                }
                Token::WJB_KEY => {
                    key = string(&value);
                    None
                }
                Token::WJB_VALUE => Some(Part::Member(key, value_of(&mut value))),
                Token::WJB_DONE => return,
                _ => Some(Part::Stranger),
            };
            is_first = false;
            if part.is_some_and(|part| !visit(part)) {
                return;
            }
        }
    }
}

/// # Safety
/// The value is a string of a document that is alive.
unsafe fn string<'a>(value: &pg_sys::JsonbValue) -> &'a str {
    // SAFETY: as promised by the caller; the database's encoding is UTF-8, and Postgres checks what comes in.
    unsafe {
        let string = value.val.string;
        let bytes = std::slice::from_raw_parts(string.val.cast::<u8>(), string.len as usize);
        std::str::from_utf8_unchecked(bytes)
    }
}

/// # Safety
/// The value is one of a document that is alive.
unsafe fn value_of<'a>(value: &mut pg_sys::JsonbValue) -> Value<'a> {
    use pg_sys::jbvType;
    /// The flag in the header of a container that is an object.
    const OBJECT: u32 = 0x2000_0000;
    // SAFETY: as promised by the caller; a nested container is shown as it is stored.
    unsafe {
        match value.type_ {
            jbvType::jbvNull => Value::Null,
            jbvType::jbvString => Value::Text(string(value)),
            jbvType::jbvBinary if (*value.val.binary.data).header & OBJECT != 0 => {
                Value::Object(pg_sys::Datum::from(pg_sys::JsonbValueToJsonb(value)))
            }
            _ => Value::Other(pg_sys::Datum::from(pg_sys::JsonbValueToJsonb(value))),
        }
    }
}
