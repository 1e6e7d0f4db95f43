//! Owns the conversion of values to JSON, as `to_json` does, and to text.
//!
//! Runs in: client backends.

use std::ffi::{CStr, c_char};

use pgrx::prelude::*;

use super::json_text::JsonText;
use super::varlena;

/// How values of a type become JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Boolean,
    Small,
    Integer,
    Big,
    Uuid,
    /// Text, as it is stored.
    Text,
    Name,
    /// What the output function writes is JSON, with white space.
    Document,
    /// Postgres' own `to_json` knows.
    Other,
}

/// Converts values of one type.
#[derive(Debug, Clone, Copy)]
pub struct Encoder {
    form: Form,
    type_oid: pg_sys::Oid,
    output: *mut pg_sys::FmgrInfo,
    to_json: *mut pg_sys::FmgrInfo,
}

impl Encoder {
    /// For values of this type. It lives as long as the current memory context.
    #[must_use]
    pub fn of_type(of: pg_sys::Oid) -> Self {
        // SAFETY: in a transaction; the type of an existing column. The functions are looked up in the current context.
        unsafe {
            let type_oid = pg_sys::getBaseType(of);
            let form = match type_oid {
                pg_sys::BOOLOID => Form::Boolean,
                pg_sys::INT2OID => Form::Small,
                pg_sys::INT4OID => Form::Integer,
                pg_sys::INT8OID => Form::Big,
                pg_sys::UUIDOID => Form::Uuid,
                pg_sys::TEXTOID | pg_sys::VARCHAROID | pg_sys::BPCHAROID => Form::Text,
                pg_sys::NAMEOID => Form::Name,
                pg_sys::JSONOID | pg_sys::JSONBOID => Form::Document,
                _ => Form::Other,
            };
            let (mut output, mut is_varlena) = (pg_sys::InvalidOid, false);
            pg_sys::getTypeOutputInfo(type_oid, &mut output, &mut is_varlena);
            Self { form, type_oid, output: look_up(output), to_json: to_json_of(type_oid) }
        }
    }

    /// Whether the text depends on settings of the session.
    #[must_use]
    pub fn depends_on_session(&self) -> bool {
        self.form == Form::Other && self.type_oid != pg_sys::NUMERICOID
    }

    /// How many times as large as its text a value can be at most.
    #[must_use]
    pub fn greatest_ratio(&self) -> usize {
        match self.form {
            Form::Text => 1,
            _ if self.type_oid == pg_sys::JSONOID => 1,
            // As for `emit()`.
            _ if self.type_oid == pg_sys::JSONBOID => 6,
            _ => 8,
        }
    }

    /// Appends a value as JSON.
    ///
    /// # Safety
    /// The value is alive and of the type.
    pub unsafe fn put(&self, value: pg_sys::Datum, text: &mut JsonText) {
        let begin = text.end();
        // SAFETY: as promised by the caller; the functions take such a value.
        unsafe {
            match self.form {
                Form::Boolean => text.push(if value.value() as u8 == 0 { "false" } else { "true" }),
                Form::Small | Form::Integer | Form::Big => self.put_plain(value, text),
                Form::Uuid => {
                    text.push("\"");
                    self.put_plain(value, text);
                    text.push("\"");
                }
                Form::Text => stored_text(value, |bytes| text.push_quoted(bytes)),
                Form::Name => text.push_quoted(CStr::from_ptr(value.cast_mut_ptr()).to_bytes()),
                Form::Document => {
                    text.push_c(self.text(value));
                    text.compact(begin);
                }
                Form::Other => {
                    let json = pg_sys::FunctionCall1Coll(self.to_json, pg_sys::InvalidOid, value);
                    stored_text(json, |bytes| text.push_bytes(bytes));
                }
            }
        }
    }

    /// Appends a value as the type prints it.
    ///
    /// # Safety
    /// As for [`Encoder::put`].
    pub unsafe fn put_plain(&self, value: pg_sys::Datum, text: &mut JsonText) {
        // SAFETY: as promised by the caller. A UUID is stored as its bytes.
        unsafe {
            match self.form {
                Form::Small => text.push_integer(i64::from(value.value() as i16)),
                Form::Integer => text.push_integer(i64::from(value.value() as i32)),
                Form::Big => text.push_integer(value.value() as i64),
                Form::Uuid => text.push_uuid(&*value.cast_mut_ptr::<[u8; 16]>()),
                Form::Text => stored_text(value, |bytes| text.push_bytes(bytes)),
                _ => text.push_c(self.text(value)),
            }
        }
    }

    /// A value as the type prints it, a C string.
    ///
    /// # Safety
    /// As for [`Encoder::put`].
    #[must_use]
    pub unsafe fn text(&self, value: pg_sys::Datum) -> *mut c_char {
        // SAFETY: as promised by the caller.
        unsafe { pg_sys::OutputFunctionCall(self.output, value) }
    }
}

/// # Safety
/// The value is alive, and of type text or json.
unsafe fn stored_text(value: pg_sys::Datum, work: impl FnOnce(&[u8])) {
    // SAFETY: as promised by the caller.
    unsafe {
        let mut stored = value.cast_mut_ptr::<pg_sys::varlena>();
        if varlena::is_packed(stored) {
            stored = pg_sys::pg_detoast_datum_packed(stored);
        }
        work(pgrx::varlena::varlena_to_byte_slice(stored));
    }
}

/// # Safety
/// The function exists.
unsafe fn look_up(function: pg_sys::Oid) -> *mut pg_sys::FmgrInfo {
    // SAFETY: as promised by the caller; the memory has the size of what is put there.
    unsafe {
        let info = pg_sys::palloc0(std::mem::size_of::<pg_sys::FmgrInfo>()).cast::<pg_sys::FmgrInfo>();
        pg_sys::fmgr_info_cxt(function, info, pg_sys::CurrentMemoryContext);
        info
    }
}

/// `to_json`, which learns the type of its argument from the expression that calls it.
///
/// # Safety
/// The type exists.
unsafe fn to_json_of(type_oid: pg_sys::Oid) -> *mut pg_sys::FmgrInfo {
    let function = pg_sys::Oid::from(pg_sys::F_TO_JSON);
    let none = pg_sys::InvalidOid;
    // SAFETY: as promised by the caller; the nodes are made in the current context, as what refers to them.
    unsafe {
        let mut arguments = pgrx::PgList::<pg_sys::Const>::new();
        arguments.push(pg_sys::makeNullConst(type_oid, -1, none));
        let form = pg_sys::CoercionForm::COERCE_EXPLICIT_CALL;
        let call = pg_sys::makeFuncExpr(function, pg_sys::JSONOID, arguments.into_pg(), none, none, form);
        let info = look_up(function);
        (*info).fn_expr = call.cast();
        info
    }
}
