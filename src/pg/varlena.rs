//! Owns values of variable length, as Postgres stores them: their size is read before they are detoasted, and
//! they are built in Postgres' memory.
//!
//! Runs in: any process.
//!
//! Users choose the size, up to a gigabyte. Postgres raises an ERROR if there is no memory for a value. A
//! failed allocation in Rust would abort the process, and with it the server. So no value is copied into
//! Rust's memory.

use event_outbox_policy::event::json;
use pgrx::prelude::*;

use super::user_error::UserError;

/// The number of bytes of a value of type text, bytea, json, jsonb or the like. The value is not detoasted.
///
/// # Safety
/// The value has such a type and is alive.
#[must_use]
pub unsafe fn length(value: pg_sys::Datum) -> usize {
    let stored = value.cast_mut_ptr::<pg_sys::varlena>();
    // SAFETY: as promised by the caller.
    unsafe {
        match is_packed(stored) {
            true => pg_sys::toast_raw_datum_size(value).saturating_sub(pg_sys::VARHDRSZ),
            false => pgrx::varlena::varsize_any_exhdr(stored),
        }
    }
}

/// Whether the value is stored compressed or out of line.
///
/// # Safety
/// The value is alive.
#[must_use]
pub unsafe fn is_packed(stored: *const pg_sys::varlena) -> bool {
    // SAFETY: as promised by the caller.
    unsafe { pgrx::varlena::varatt_is_1b_e(stored) || pgrx::varlena::varatt_is_4b_c(stored) }
}

/// The bytes of a value of type text, bytea or the like, detoasted if necessary.
///
/// # Safety
/// The value has such a type. The value and the memory context live as long as the bytes are used.
#[must_use]
pub unsafe fn bytes<'a>(value: pg_sys::Datum) -> &'a [u8] {
    let stored = value.cast_mut_ptr::<pg_sys::varlena>();
    // SAFETY: as promised by the caller.
    unsafe {
        let plain = if is_packed(stored) { pg_sys::pg_detoast_datum_packed(stored) } else { stored };
        pgrx::varlena::varlena_to_byte_slice(plain)
    }
}

/// A value of type text that a process keeps.
#[derive(Debug)]
pub struct KeptText(Box<[u8]>);

impl KeptText {
    /// The value with this text.
    #[must_use]
    pub fn of(text: &str) -> Self {
        let mut value = vec![0; pg_sys::VARHDRSZ + text.len()].into_boxed_slice();
        value[pg_sys::VARHDRSZ..].copy_from_slice(text.as_bytes());
        // SAFETY: the memory begins with room for the header.
        unsafe { pgrx::set_varsize_4b(value.as_mut_ptr().cast(), value.len() as i32) };
        Self(value)
    }

    /// The value. It lives as long as `self`.
    #[must_use]
    pub fn datum(&self) -> pg_sys::Datum {
        pg_sys::Datum::from(self.0.as_ptr())
    }
}

/// The text of a value of type text or json, detoasted if necessary.
///
/// # Safety
/// The value has such a type and is UTF-8, like every database with the extension. The value and the memory context live as
/// long as the text is used.
#[must_use]
pub unsafe fn text<'a>(value: pg_sys::Datum) -> &'a str {
    // SAFETY: as promised by the caller.
    let Ok(text) = std::str::from_utf8(unsafe { bytes(value) }) else {
        ereport!(
            ERROR,
            PgSqlErrorCode::ERRCODE_CHARACTER_NOT_IN_REPERTOIRE,
            "text of an event is not valid UTF-8"
        );
    };
    text
}

/// Creates a value of `length` bytes, which `fill` writes. An ERROR if that is too large.
pub fn filled(bytes: usize, fill: impl FnOnce(&mut [u8])) -> pg_sys::Datum {
    let size = bytes.saturating_add(pg_sys::VARHDRSZ);
    // SAFETY: the allocation has the requested size, or raises an ERROR; all bytes are written.
    unsafe {
        let value = pg_sys::palloc0(size).cast::<pg_sys::varlena>();
        pgrx::set_varsize_4b(value, size as i32);
        fill(std::slice::from_raw_parts_mut(value.cast::<u8>().add(pg_sys::VARHDRSZ), bytes));
        pg_sys::Datum::from(value)
    }
}

/// A jsonb value as compact JSON text, of the type text, json or bytea.
///
/// # Safety
/// The value is a jsonb and is alive.
#[must_use]
pub unsafe fn json_of(value: pg_sys::Datum) -> pg_sys::Datum {
    const HEADER: [u8; pg_sys::VARHDRSZ] = [0; pg_sys::VARHDRSZ];
    // SAFETY: as promised by the caller. The buffer belongs to this function; the text follows a header, so
    // that the buffer is a value once the header has its length.
    unsafe {
        let jsonb = pg_sys::pg_detoast_datum(value.cast_mut_ptr()).cast::<pg_sys::Jsonb>();
        let expected = pgrx::varsize_any(jsonb.cast()) as i32;
        let text = pg_sys::makeStringInfo();
        pg_sys::appendBinaryStringInfo(text, HEADER.as_ptr().cast(), HEADER.len() as i32);
        pg_sys::JsonbToCString(text, &raw mut (*jsonb).root, expected);
        let written = std::slice::from_raw_parts_mut((*text).data.cast::<u8>(), (*text).len as usize);
        let length = json::compact_in_place(&mut written[HEADER.len()..]);
        pgrx::set_varsize_4b((*text).data.cast(), (HEADER.len() + length) as i32);
        pg_sys::Datum::from((*text).data)
    }
}

/// Raises an ERROR unless this many further bytes of memory can be allocated.
pub fn require_memory(bytes: usize) {
    let mut room = Vec::<u8>::new();
    if room.try_reserve_exact(bytes).is_err() {
        out_of_memory(bytes);
    }
    // Keeps the compiler from removing the unused allocation.
    std::hint::black_box(&room);
}

/// Raises the ERROR that this many bytes cannot be allocated.
pub fn out_of_memory(bytes: usize) -> ! {
    UserError {
        code: PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY,
        message: "out of memory".into(),
        detail: format!("Failed on a request of {bytes} bytes for an event."),
        hint: "The event waits until there is memory for it; others wait behind it.".into(),
    }
    .raise()
}
