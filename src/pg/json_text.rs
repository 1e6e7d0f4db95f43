//! Owns JSON text that is built in Postgres' memory, and the conversion of values to it.
//!
//! Runs in: client backends.

use std::ffi::c_char;

use event_outbox_policy::event::json;
use pgrx::prelude::*;

/// JSON text that becomes a value of type json, text or bytea. Postgres raises an ERROR if it grows beyond a gigabyte.
pub struct JsonText(*mut pg_sys::StringInfoData);

impl JsonText {
    /// Empty text, in the current memory context.
    #[must_use]
    pub fn new() -> Self {
        let header = [0_u8; pg_sys::VARHDRSZ];
        // SAFETY: makes a buffer of Postgres' own.
        let mut text = Self(unsafe { pg_sys::makeStringInfo() });
        text.push_bytes(&header);
        text
    }

    /// Its length in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.end() - pg_sys::VARHDRSZ
    }

    /// Appends text that is JSON, or a part of it.
    pub fn push(&mut self, text: &str) {
        self.push_bytes(text.as_bytes());
    }

    /// The finished value.
    #[must_use]
    pub fn into_datum(self) -> pg_sys::Datum {
        // SAFETY: the buffer begins with room for the header.
        unsafe {
            pgrx::set_varsize_4b((*self.0).data.cast(), (*self.0).len);
            pg_sys::Datum::from((*self.0).data)
        }
    }

    fn end(&self) -> usize {
        // SAFETY: the buffer lives as long as the memory context; its length is never negative.
        unsafe { (*self.0).len as usize }
    }

    fn push_bytes(&mut self, bytes: &[u8]) {
        let length = i32::try_from(bytes.len()).unwrap_or(i32::MAX);
        // SAFETY: the bytes are as long as they are said to be; Postgres refuses more than it can hold.
        unsafe { pg_sys::appendBinaryStringInfo(self.0, bytes.as_ptr().cast(), length) }
    }

    /// # Safety
    /// A C string.
    unsafe fn push_c(&mut self, text: *const c_char) {
        // SAFETY: as promised by the caller.
        self.push_bytes(unsafe { std::ffi::CStr::from_ptr(text) }.to_bytes());
    }

    /// # Safety
    /// A C string.
    unsafe fn push_quoted(&mut self, text: *const c_char) {
        // SAFETY: as promised by the caller.
        unsafe { pg_sys::escape_json(self.0, text) }
    }

    /// Removes white space from what was appended since `begin`.
    fn compact(&mut self, begin: usize) {
        // SAFETY: the buffer has its length of bytes, and room for the NUL behind them.
        unsafe {
            let length = self.end() - begin;
            let written = std::slice::from_raw_parts_mut((*self.0).data.cast::<u8>().add(begin), length);
            let left = json::compact_in_place(written);
            (*self.0).len = (begin + left) as i32;
            *(*self.0).data.add(begin + left) = 0;
        }
    }
}

/// A string as JSON, with its quotes. For names, which are short.
#[must_use]
pub fn quoted(name: &std::ffi::CStr) -> String {
    // SAFETY: a C string; the buffer is Postgres' own, and has its length of bytes.
    unsafe {
        let buffer = pg_sys::makeStringInfo();
        pg_sys::escape_json(buffer, name.as_ptr());
        let bytes = std::slice::from_raw_parts((*buffer).data.cast::<u8>(), (*buffer).len as usize);
        String::from_utf8_lossy(bytes).into_owned()
    }
}

/// How values of a type become JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Boolean,
    /// What the output function writes is JSON.
    Number,
    /// So it is, with white space.
    Document,
    /// What the output function writes is the text of a string.
    Text,
    /// Postgres' own `to_json` knows.
    Other,
}

/// Converts values of one type to JSON, as `to_json` does, and to text.
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
                pg_sys::INT2OID | pg_sys::INT4OID | pg_sys::INT8OID => Form::Number,
                pg_sys::JSONOID | pg_sys::JSONBOID => Form::Document,
                pg_sys::TEXTOID
                | pg_sys::VARCHAROID
                | pg_sys::BPCHAROID
                | pg_sys::NAMEOID
                | pg_sys::UUIDOID => Form::Text,
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
                Form::Boolean => text.push(if value.value() == 0 { "false" } else { "true" }),
                Form::Number => text.push_c(self.text(value)),
                Form::Document => {
                    text.push_c(self.text(value));
                    text.compact(begin);
                }
                Form::Text => text.push_quoted(self.text(value)),
                Form::Other => {
                    let json = pg_sys::FunctionCall1Coll(self.to_json, pg_sys::InvalidOid, value);
                    let json = pg_sys::pg_detoast_datum_packed(json.cast_mut_ptr());
                    text.push_bytes(pgrx::varlena::varlena_to_byte_slice(json));
                }
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
