//! `event_outbox.kafka_properties`, which may hold passwords: neither shown nor logged.

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_void};

use pgrx::prelude::*;

use crate::pg::compat;

/// Shown in place of `event_outbox.kafka_properties`, which may hold passwords.
const HIDDEN: &CStr = c"********";

/// The most bytes of a value, which is copied where no error may be raised.
const MOST_BYTES: usize = 1 << 20;

/// What is said to who would set `event_outbox.kafka_properties_file` and may not.
const FILE_IS_REFUSED: (&CStr, &CStr) = (
    c"permission denied to set parameter \"event_outbox.kafka_properties_file\"",
    c"Only superusers set it, whatever was granted: what the file holds can run programs as the server's user.",
);

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

/// Check hook of `event_outbox.kafka_properties_file`: only superusers set it, whatever was granted. What stands in the
/// file may run programs, and a user finds ways to have the server write a file.
///
/// # Safety
/// Called by Postgres alone.
pub unsafe extern "C-unwind" fn check_file(
    _value: *mut *mut c_char,
    _extra: *mut *mut c_void,
    source: pg_sys::GucSource::Type,
) -> bool {
    use pg_sys::GucSource::{PGC_S_FILE, PGC_S_SESSION, PGC_S_TEST};
    // What somebody says now: what stands in the server's files, or was kept for the database, has been said before.
    // ALTER SYSTEM names the file as its source, but runs in a transaction.
    let is_said = matches!(source, PGC_S_FILE | PGC_S_SESSION | PGC_S_TEST);
    // SAFETY: plain globals of this process; within a transaction the catalogs can be read. A parallel worker takes
    // over what its leader was allowed to say.
    let is_refused = unsafe {
        is_said && pg_sys::IsTransactionState() && pg_sys::ParallelWorkerNumber < 0 && !pg_sys::superuser()
    };
    if is_refused {
        // SAFETY: Postgres takes over the code and the texts, which are constants, when this returns.
        unsafe {
            pg_sys::GUC_check_errcode(PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE as i32);
            pg_sys::GUC_check_errmsg_string = FILE_IS_REFUSED.0.as_ptr().cast_mut();
            pg_sys::GUC_check_errdetail_string = FILE_IS_REFUSED.1.as_ptr().cast_mut();
        }
    }
    !is_refused
}

/// Show hook: whether there is a value, and no more.
///
/// # Safety
/// Called by Postgres alone.
pub unsafe extern "C-unwind" fn show_hidden() -> *const c_char {
    if ASIDE.with_borrow(String::is_empty) { c"".as_ptr() } else { HIDDEN.as_ptr() }
}
