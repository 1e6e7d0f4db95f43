//! Owns the value of `event_outbox.kafka_properties`, which may hold passwords and is neither shown nor
//! logged. Decides who may set what is for superusers alone.

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_void};

use pgrx::prelude::*;

use crate::pg::compat;

/// Shown in place of `event_outbox.kafka_properties`, which may hold passwords.
const HIDDEN: &CStr = c"********";

/// The maximum size of a value, in bytes. The value is copied where no error may be raised.
const MOST_BYTES: usize = 1 << 20;

/// The message and detail for a user who may not set `event_outbox.kafka_properties_file`.
const FILE_IS_REFUSED: Refusal = (
    c"permission denied to set parameter \"event_outbox.kafka_properties_file\"",
    c"Only superusers set it, whatever was granted: what the file holds can run programs as the server's user.",
);

/// The same for `event_outbox.schema_registry_url`.
const ADDRESS_IS_REFUSED: Refusal = (
    c"permission denied to set parameter \"event_outbox.schema_registry_url\"",
    c"Only superusers set it, whatever was granted: the server at the address is told the passwords of the properties file.",
);

/// A message and a detail.
type Refusal = (&'static CStr, &'static CStr);

thread_local! {
    /// The real value of `event_outbox.kafka_properties`; the variable itself is always empty. So the server
    /// finds no change to log when it reloads its configuration. It logs the new values of all other
    /// settings.
    static ASIDE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// The real value of `event_outbox.kafka_properties`.
pub fn value() -> String {
    ASIDE.with_borrow(String::clone)
}

/// Check hook: moves the value from the variable to the extra that Postgres keeps with it.
///
/// # Safety
/// Only Postgres may call it.
pub unsafe extern "C-unwind" fn take_aside(
    value: *mut *mut c_char,
    extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: Postgres passes a copy of the new value, which a check hook may change. It takes ownership of
    // the extra, which is allocated as it requires.
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

/// Assign hook: copies the value from the extra. It must not fail.
///
/// # Safety
/// Only Postgres may call it.
pub unsafe extern "C-unwind" fn keep_aside(_value: *const c_char, extra: *mut c_void) {
    // SAFETY: the extra is the C string that `take_aside` made of this value.
    let text = unsafe { CStr::from_ptr(extra.cast()) }.to_string_lossy().into_owned();
    ASIDE.set(text);
}

/// Check hook of `event_outbox.kafka_properties_file`: only superusers may set it, whatever was granted. The
/// properties in the file can run programs, and a user can find ways to have the server write a file.
///
/// # Safety
/// Only Postgres may call it.
pub unsafe extern "C-unwind" fn check_file(
    _value: *mut *mut c_char,
    _extra: *mut *mut c_void,
    source: pg_sys::GucSource::Type,
) -> bool {
    is_superuser(source, FILE_IS_REFUSED)
}

/// The same for `event_outbox.schema_registry_url`: whoever chooses the server learns what logs in there.
pub(super) fn may_set_address(source: pg_sys::GucSource::Type) -> bool {
    is_superuser(source, ADDRESS_IS_REFUSED)
}

/// Whether a superuser sets the value, or nobody does now. Otherwise Postgres is given the message. Only check hooks may call it.
fn is_superuser(source: pg_sys::GucSource::Type, refusal: Refusal) -> bool {
    use pg_sys::GucSource::{PGC_S_FILE, PGC_S_SESSION, PGC_S_TEST};
    // Only a value that somebody sets now is checked. A value in the server's files, or one stored for the
    // database, was set earlier. ALTER SYSTEM gives the file as the source, but runs in a transaction.
    let is_said = matches!(source, PGC_S_FILE | PGC_S_SESSION | PGC_S_TEST);
    // SAFETY: these are plain globals of this process, and the catalogs can be read within a transaction. A
    // parallel worker takes over the values that its leader was allowed to set.
    let is_refused = unsafe {
        is_said && pg_sys::IsTransactionState() && pg_sys::ParallelWorkerNumber < 0 && !pg_sys::superuser()
    };
    if is_refused {
        // SAFETY: Postgres reads the code and the texts when the hook returns; the texts are constants.
        unsafe {
            pg_sys::GUC_check_errcode(PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE as i32);
            pg_sys::GUC_check_errmsg_string = refusal.0.as_ptr().cast_mut();
            pg_sys::GUC_check_errdetail_string = refusal.1.as_ptr().cast_mut();
        }
    }
    !is_refused
}

/// Show hook: shows only whether there is a value.
///
/// # Safety
/// Only Postgres may call it.
pub unsafe extern "C-unwind" fn show_hidden() -> *const c_char {
    if ASIDE.with_borrow(String::is_empty) { c"".as_ptr() } else { HIDDEN.as_ptr() }
}
