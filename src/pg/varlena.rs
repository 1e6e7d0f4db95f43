//! Values of variable length, as Postgres stores them: weighed before they are unpacked, and made where they stay.
//!
//! How large they are is for users to choose, up to a gigabyte. Postgres raises an ERROR where there is no memory for
//! one; memory of Rust's would end the process, and with it the server. So none of them is copied into it.

use event_outbox_policy::event::json;
use pgrx::prelude::*;

use super::user_error::UserError;

/// The bytes of a value of type text, bytea, json, jsonb or the like, without unpacking it.
///
/// # Safety
/// The value is of such a type, and alive.
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

/// Whether it is stored compressed, or elsewhere.
///
/// # Safety
/// The value is alive.
#[must_use]
pub unsafe fn is_packed(stored: *const pg_sys::varlena) -> bool {
    // SAFETY: as promised by the caller.
    unsafe { pgrx::varlena::varatt_is_1b_e(stored) || pgrx::varlena::varatt_is_4b_c(stored) }
}

/// The text of a value of type text or json, unpacked if need be.
///
/// # Safety
/// The value is of such a type, in UTF-8 as all databases with the extension are, and alive, as is the memory context,
/// as long as the text is used.
#[must_use]
pub unsafe fn text<'a>(value: pg_sys::Datum) -> &'a str {
    // SAFETY: as promised by the caller.
    let bytes = unsafe {
        let unpacked = pg_sys::pg_detoast_datum_packed(value.cast_mut_ptr());
        pgrx::varlena::varlena_to_byte_slice(unpacked)
    };
    let Ok(text) = std::str::from_utf8(bytes) else {
        ereport!(
            ERROR,
            PgSqlErrorCode::ERRCODE_CHARACTER_NOT_IN_REPERTOIRE,
            "text of an event is not valid UTF-8"
        );
    };
    text
}

/// A new value of so many bytes, which `fill` writes. An ERROR if there can be none of that size.
pub fn filled(bytes: usize, fill: impl FnOnce(&mut [u8])) -> pg_sys::Datum {
    let size = bytes.saturating_add(pg_sys::VARHDRSZ);
    // SAFETY: what is allocated has the size asked for, or there is an ERROR; all of it is written.
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
/// The value is a jsonb, and alive.
#[must_use]
pub unsafe fn json_of(value: pg_sys::Datum) -> pg_sys::Datum {
    const HEADER: [u8; pg_sys::VARHDRSZ] = [0; pg_sys::VARHDRSZ];
    // SAFETY: as promised by the caller. The string that the text is written behind the header of is ours, and is a value
    // by itself when the header says how long it is.
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

/// An ERROR unless there is memory for so many bytes, beyond what is in use.
pub fn require_memory(bytes: usize) {
    let mut room = Vec::<u8>::new();
    if room.try_reserve_exact(bytes).is_err() {
        out_of_memory(bytes);
    }
    // Lest the compiler find that nobody needs it.
    std::hint::black_box(&room);
}

/// The ERROR that says so.
pub fn out_of_memory(bytes: usize) -> ! {
    UserError {
        code: PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY,
        message: "out of memory".into(),
        detail: format!("Failed on a request of {bytes} bytes for an event."),
        hint: "The event waits until there is memory for it; others wait behind it.".into(),
    }
    .raise()
}
