//! `event_outbox.kafka_properties`, which may hold passwords: neither shown nor logged.

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_void};

use pgrx::prelude::*;

use super::compat;

/// Shown in place of `event_outbox.kafka_properties`, which may hold passwords.
const HIDDEN: &CStr = c"********";

/// The most bytes of a value, which is copied where no error may be raised.
const MOST_BYTES: usize = 1 << 20;

thread_local! {
    /// The real value of `event_outbox.kafka_properties`; the variable itself is always empty. So the server
    /// finds no change to write into its log when it reloads, as it does with the values of all others.
    static ASIDE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// The real value.
pub fn value() -> String {
    ASIDE.with_borrow(String::clone)
}

/// Check hook: moves the value from the variable to the extra that Postgres keeps with it.
///
/// # Safety
/// Called by Postgres alone.
pub unsafe extern "C-unwind" fn take_aside(
    value: *mut *mut c_char,
    extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: Postgres passes a copy of the new value, which a check hook may change, and takes over an
    // extra that was allocated in its way.
    unsafe {
        let text = CStr::from_ptr(*value).to_bytes_with_nul();
        if text.len() > MOST_BYTES {
            return false;
        }
        let copy = compat::allocate_for_setting(text.len()).cast::<u8>();
        if copy.is_null() {
            return false;
        }
        copy.copy_from_nonoverlapping(text.as_ptr(), text.len());
        *extra = copy.cast();
        **value = 0;
        true
    }
}

/// Assign hook: takes over the value from the extra. May not fail.
///
/// # Safety
/// Called by Postgres alone.
pub unsafe extern "C-unwind" fn keep_aside(_value: *const c_char, extra: *mut c_void) {
    // SAFETY: the extra is what `take_aside` made of this value, a C string.
    let text = unsafe { CStr::from_ptr(extra.cast()) }.to_string_lossy().into_owned();
    ASIDE.set(text);
}

/// Show hook: whether there is a value, and no more.
///
/// # Safety
/// Called by Postgres alone.
pub unsafe extern "C-unwind" fn show_hidden() -> *const c_char {
    if ASIDE.with_borrow(String::is_empty) { c"".as_ptr() } else { HIDDEN.as_ptr() }
}
