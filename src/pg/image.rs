//! Owns the comparison of two values by their bytes, as cheaply as it can be.
//!
//! Runs in: client backends.

use std::ffi::c_int;

use pgrx::prelude::*;

use super::compat;

/// A type's storage.
#[derive(Debug, Clone, Copy)]
pub struct Storage {
    /// Whether a value lies in the datum itself.
    pub by_value: bool,
    /// The length in bytes; -1 for a value of variable length.
    pub length: i16,
}

// The bindings of pgrx lack utils/datum.h.
unsafe extern "C-unwind" {
    fn datum_image_eq(one: pg_sys::Datum, other: pg_sys::Datum, by_value: bool, length: c_int) -> bool;
}

/// Whether two values are the same, byte for byte. A value that an UPDATE left alone and that lies out of line is not
/// fetched: both rows point to the same place.
///
/// # Safety
/// Both are alive, and of a type with this storage.
#[must_use]
pub unsafe fn is_same(one: pg_sys::Datum, other: pg_sys::Datum, storage: Storage) -> bool {
    // SAFETY: as promised by the caller. A pointer to a value out of line has its size.
    unsafe {
        if storage.length == -1 {
            let [one, other] = [one, other].map(|value| value.cast_mut_ptr::<pg_sys::varlena>());
            if pgrx::varlena::varatt_is_1b_e(one) && pgrx::varlena::varatt_is_1b_e(other) {
                let [one, other] = [one, other].map(|stored| pointer_bytes(stored));
                if one == other {
                    return true;
                }
            }
        }
        compat::guarded(|| datum_image_eq(one, other, storage.by_value, storage.length.into()))
    }
}

/// # Safety
/// The value is alive, and lies out of line.
unsafe fn pointer_bytes<'a>(stored: *const pg_sys::varlena) -> &'a [u8] {
    // SAFETY: as promised by the caller; the size includes the header.
    unsafe { std::slice::from_raw_parts(stored.cast::<u8>(), pgrx::varlena::varsize_any(stored)) }
}
