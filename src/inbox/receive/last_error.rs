//! The last error of a transaction that has received events: if it is rolled back, that is why they failed.

use std::cell::{Cell, RefCell};
use std::ffi::CStr;

use once_cell::sync::OnceCell;
use pgrx::prelude::*;

/// The most bytes of an error that are kept.
pub const MAX_ERROR_BYTES: usize = 200;

type EmitLog = unsafe extern "C-unwind" fn(*mut pg_sys::ErrorData);

static PREVIOUS: OnceCell<Option<EmitLog>> = OnceCell::new();

/// The beginning of an error's message.
struct Kept {
    length: usize,
    bytes: [u8; MAX_ERROR_BYTES],
    /// Whether the events are not to blame.
    is_innocent: bool,
}

thread_local! {
    /// Whether this session has received something in the current transaction.
    static IS_ON: Cell<bool> = const { Cell::new(false) };
    static LAST: RefCell<Kept> = const {
        RefCell::new(Kept { length: 0, bytes: [0; MAX_ERROR_BYTES], is_innocent: false })
    };
}

/// Puts the hook in front of the existing ones; in the postmaster.
pub fn init() {
    // SAFETY: only the postmaster runs, and it has one thread.
    unsafe {
        let _ = PREVIOUS.set(pg_sys::emit_log_hook);
        pg_sys::emit_log_hook = Some(on_log);
    }
}

/// Errors are remembered from now on.
pub fn begin() {
    if !IS_ON.replace(true) {
        forget();
    }
}

/// No errors are remembered any more.
pub fn end() {
    IS_ON.set(false);
}

/// Forgets the last error.
pub fn forget() {
    LAST.with(|last| {
        if let Ok(mut last) = last.try_borrow_mut() {
            last.length = 0;
            last.is_innocent = false;
        }
    });
}

/// Remembers an error whose reporting the caller has prevented.
pub fn remember(text: &str) {
    if IS_ON.get() {
        keep(text.as_bytes(), false);
    }
}

/// Calls `with` with the message, empty if there is none, and whether the events are not to blame.
pub fn with<R>(with: impl FnOnce(&[u8], bool) -> R) -> R {
    LAST.with(|last| match last.try_borrow() {
        Ok(last) => with(&last.bytes[..last.length], last.is_innocent),
        Err(_) => with(b"", false),
    })
}

fn keep(text: &[u8], is_innocent: bool) {
    LAST.with(|last| {
        if let Ok(mut last) = last.try_borrow_mut() {
            let length = text.len().min(MAX_ERROR_BYTES);
            last.bytes[..length].copy_from_slice(&text[..length]);
            last.length = length;
            last.is_innocent = is_innocent;
        }
    });
}

/// Whether an error says nothing of what the transaction did: another transaction was in its way, or a handler's process was
/// told to end. A client's session that was terminated counts: perhaps the event made it hang. When the server shuts down, the
/// worker that would record it ends as well.
fn is_innocent(code: i32) -> bool {
    const CATEGORY: i32 = 0xfff;
    // SAFETY: a variable of this process, set when it starts.
    let is_client = unsafe { pg_sys::MyBackendType } == pg_sys::BackendType::B_BACKEND;
    code & CATEGORY == PgSqlErrorCode::ERRCODE_TRANSACTION_ROLLBACK as i32
        || (!is_client && code == PgSqlErrorCode::ERRCODE_ADMIN_SHUTDOWN as i32)
}

/// Sees what the server reports. It must not fail.
#[pg_guard]
unsafe extern "C-unwind" fn on_log(error: *mut pg_sys::ErrorData) {
    if IS_ON.get() {
        // SAFETY: Postgres passes the error that it reports; its message is null or a C string.
        unsafe {
            let error = &*error;
            if error.elevel >= PgLogLevel::ERROR as i32 && !error.message.is_null() {
                keep(CStr::from_ptr(error.message).to_bytes(), is_innocent(error.sqlerrcode));
            }
        }
    }
    if let Some(previous) = PREVIOUS.get().copied().flatten() {
        // SAFETY: called as Postgres calls it.
        unsafe { previous(error) }
    }
}
