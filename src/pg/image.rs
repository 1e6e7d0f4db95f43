//! Owns the comparison of two values by their bytes, as cheaply as it can be.
//!
//! Runs in: client backends.

use std::ffi::c_int;

use pgrx::prelude::*;

use super::{compat, varlena};

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
    if storage.by_value {
        return one.value() == other.value();
    }
    // SAFETY: as promised by the caller. A pointer to a value out of line has its size.
    unsafe {
        if storage.length == -1 {
            let stored = [one, other].map(|value| value.cast_mut_ptr::<pg_sys::varlena>());
            if stored.into_iter().all(|stored| pgrx::varlena::varatt_is_1b_e(stored)) {
                let [one, other] = stored.map(|stored| pointer_bytes(stored));
                if one == other {
                    return true;
                }
            }
            if !stored.into_iter().any(|stored| varlena::is_packed(stored)) {
                let [one, other] = stored.map(|stored| pgrx::varlena::varlena_to_byte_slice(stored));
                return one == other;
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
