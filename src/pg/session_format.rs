//! Owns the settings of a session that decide how values are printed.
//!
//! Runs in: client backends.

use std::ffi::{CStr, c_int};

use pgrx::prelude::*;

/// What is set, each with a value under which what is printed can be read back anywhere.
const SETTINGS: [(&CStr, &CStr); 5] = [
    (c"DateStyle", c"ISO"),
    (c"IntervalStyle", c"postgres"),
    (c"extra_float_digits", c"1"),
    (c"bytea_output", c"hex"),
    (c"TimeZone", c"UTC"),
];

// The bindings of pgrx lack this variable.
unsafe extern "C" {
    static bytea_output: c_int;
}

const BYTEA_OUTPUT_HEX: c_int = 1;

/// While it lives, values are printed in the same way whatever the session has set.
pub struct CanonicalFormat(Option<c_int>);

impl CanonicalFormat {
    /// Sets what is set otherwise.
    #[must_use]
    pub fn set() -> Self {
        if is_set() {
            return Self(None);
        }
        // SAFETY: the settings exist, and are restored when this is dropped, or after an ERROR, when the (sub)transaction
        // ends.
        unsafe {
            let level = pg_sys::NewGUCNestLevel();
            for (setting, value) in SETTINGS {
                pg_sys::set_config_option(
                    setting.as_ptr(),
                    value.as_ptr(),
                    pg_sys::GucContext::PGC_USERSET,
                    pg_sys::GucSource::PGC_S_SESSION,
                    pg_sys::GucAction::GUC_ACTION_SAVE,
                    true,
                    0,
                    false,
                );
            }
            Self(Some(level))
        }
    }
}

impl Drop for CanonicalFormat {
    fn drop(&mut self) {
        if let Some(level) = self.0.filter(|_| !std::thread::panicking()) {
            // SAFETY: pairs with `set`.
            unsafe { pg_sys::AtEOXact_GUC(false, level) }
        }
    }
}

fn is_set() -> bool {
    // SAFETY: plain globals of this process; the name of a time zone is a C string.
    unsafe {
        pg_sys::DateStyle == pg_sys::USE_ISO_DATES as c_int
            && pg_sys::IntervalStyle == pg_sys::INTSTYLE_POSTGRES as c_int
            && pg_sys::extra_float_digits >= 1
            && bytea_output == BYTEA_OUTPUT_HEX
            && !pg_sys::session_timezone.is_null()
            && CStr::from_ptr(pg_sys::pg_get_timezone_name(pg_sys::session_timezone)) == c"UTC"
    }
}
