//! Owns errors with an SQLSTATE that Postgres does not know: those of the extension's own, which applications tell apart, and
//! those of users' code that it calls.
//!
//! The bindings of pgrx know only the codes of Postgres, and turn any other into that of an internal error; they drop the
//! context of an error, too. So such an error is returned to the outermost function, which has nothing to clean up, and raised
//! there as C would.
//!
//! Runs in: client backends.

use std::ffi::{CString, c_char, c_int};
use std::mem::MaybeUninit;

use pgrx::prelude::*;

use super::function::Arguments;

/// The functions of Postgres' `elog.c`, without the guard that the bindings put around them.
mod raw {
    use pgrx::pg_sys;
    use std::ffi::{c_char, c_int};

    unsafe extern "C-unwind" {
        pub fn errstart(level: c_int, domain: *const c_char) -> bool;
        pub fn errcode(code: c_int) -> c_int;
        pub fn errmsg_internal(format: *const c_char, ...) -> c_int;
        pub fn errdetail_internal(format: *const c_char, ...) -> c_int;
        pub fn errhint(format: *const c_char, ...) -> c_int;
        pub fn errfinish(file: *const c_char, line: c_int, function: *const c_char);
        pub fn ReThrowError(error: *mut pg_sys::ErrorData) -> !;
    }
}

/// An error to raise, or none. Its texts lie in Postgres' memory, so that nothing needs to be dropped.
#[derive(Debug, Clone, Copy)]
pub struct Refusal {
    code: c_int,
    message: *const c_char,
    detail: *const c_char,
    hint: *const c_char,
    /// An error that was caught, instead of these.
    caught: *mut pg_sys::ErrorData,
}

impl Refusal {
    /// No error.
    pub const NONE: Self = Self {
        code: 0,
        message: std::ptr::null(),
        detail: std::ptr::null(),
        hint: std::ptr::null(),
        caught: std::ptr::null_mut(),
    };

    /// An error with the five characters of its SQLSTATE. The texts are copied into the current memory context.
    #[must_use]
    pub fn new(code: [u8; 5], message: &str, detail: &str, hint: &str) -> Self {
        let code = code.iter().rev().fold(0, |code, byte| (code << 6) | ((c_int::from(*byte) - 0x30) & 0x3f));
        let [message, detail, hint] = [message, detail, hint].map(copy);
        Self { code, message, detail, hint, caught: std::ptr::null_mut() }
    }

    /// Raises it, if it is one.
    ///
    /// # Safety
    /// No frame between the caller and Postgres has anything to drop: they are left as by `longjmp`.
    pub unsafe fn raise(&self) {
        if !self.caught.is_null() {
            // SAFETY: a copy of an error, alive until the transaction ends; as promised by the caller.
            unsafe { raw::ReThrowError(self.caught) }
        }
        if self.code == 0 {
            return;
        }
        const TEXT: *const c_char = c"%s".as_ptr();
        // SAFETY: as C does it; the texts are C strings that live as long as the transaction's current command.
        unsafe {
            if raw::errstart(PgLogLevel::ERROR as c_int, std::ptr::null()) {
                raw::errcode(self.code);
                raw::errmsg_internal(TEXT, self.message);
                raw::errdetail_internal(TEXT, self.detail);
                raw::errhint(TEXT, self.hint);
                raw::errfinish(c"event_outbox".as_ptr(), 0, c"event_outbox".as_ptr());
            }
        }
    }
}

/// Calls C code. An ERROR that it raises is returned as it is, with all its fields.
///
/// # Safety
/// `call` has nothing to drop. After an ERROR the caller does nothing but clean up, until the outermost function raises it
/// again: the (sub)transaction has failed.
pub unsafe fn catching<R: Copy>(call: impl FnOnce() -> R) -> Result<R, Refusal> {
    // SAFETY: as PG_TRY does it, and the guard of pgrx: an ERROR jumps to the buffer, over frames of C and of `call` alone. What
    // was saved before is restored on both ways.
    unsafe {
        let memory = pg_sys::CurrentMemoryContext;
        let (handler, callbacks) = (pg_sys::PG_exception_stack, pg_sys::error_context_stack);
        let mut result = MaybeUninit::uninit();
        let jumped = cee_scape::call_with_sigsetjmp(false, |buffer| {
            pg_sys::PG_exception_stack = std::ptr::from_ref(buffer).cast_mut().cast();
            result.write(call());
            0
        });
        pg_sys::PG_exception_stack = handler;
        pg_sys::error_context_stack = callbacks;
        if jumped == 0 {
            return Ok(result.assume_init());
        }
        pg_sys::CurrentMemoryContext = memory;
        let caught = pg_sys::CopyErrorData();
        pg_sys::FlushErrorState();
        Err(Refusal { caught, ..Refusal::NONE })
    }
}

fn copy(text: &str) -> *const c_char {
    let text = CString::new(text.replace('\0', "\u{fffd}")).unwrap_or_default();
    // SAFETY: copies a C string into the current memory context.
    unsafe { pg_sys::pstrdup(text.as_ptr()) }
}

/// Exports `$inner`, a function of [`Arguments`] that may return a [`Refusal`] instead of a value.
/// Otherwise as `sql_function`.
macro_rules! refusing_function {
    ($symbol:ident, $finfo:ident, $inner:path) => {
        #[doc = concat!("The call convention of `", stringify!($symbol), "` in `sql/`.")]
        ///
        /// # Safety
        /// Only Postgres' function manager may call it.
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $symbol(
            fcinfo: pgrx::pg_sys::FunctionCallInfo,
        ) -> pgrx::pg_sys::Datum {
            #[pgrx::pg_guard]
            unsafe extern "C-unwind" fn inner(
                fcinfo: pgrx::pg_sys::FunctionCallInfo,
                refusal: *mut $crate::pg::refusal::Refusal,
            ) -> pgrx::pg_sys::Datum {
                // SAFETY: Postgres passes a valid call, whose arguments have the types declared in sql/.
                unsafe { $crate::pg::refusal::call(fcinfo, refusal, $inner) }
            }
            let mut refusal = $crate::pg::refusal::Refusal::NONE;
            // SAFETY: as promised by the caller; nothing here needs to be dropped.
            unsafe {
                let value = inner(fcinfo, &raw mut refusal);
                refusal.raise();
                value
            }
        }

        #[doc = concat!("Says that `", stringify!($symbol), "` follows version 1 of the call convention.")]
        #[unsafe(no_mangle)]
        pub extern "C" fn $finfo() -> &'static pgrx::pg_sys::Pg_finfo_record {
            const VERSION_1: pgrx::pg_sys::Pg_finfo_record = pgrx::pg_sys::Pg_finfo_record { api_version: 1 };
            &VERSION_1
        }
    };
}
pub(crate) use refusing_function;

/// Calls `inner`, and returns its value, or NULL, to Postgres; or stores its refusal.
///
/// # Safety
/// As for [`function::call`](super::function::call); the refusal can be written.
pub unsafe fn call(
    fcinfo: pg_sys::FunctionCallInfo,
    refusal: *mut Refusal,
    inner: fn(&Arguments) -> Result<Option<pg_sys::Datum>, Refusal>,
) -> pg_sys::Datum {
    // SAFETY: as promised by the caller; the call is alive until this function returns.
    unsafe {
        let arguments = Arguments::of_call(fcinfo);
        let result = inner(&arguments).unwrap_or_else(|refused| {
            refusal.write(refused);
            None
        });
        (*fcinfo).isnull = result.is_none();
        result.unwrap_or_else(|| pg_sys::Datum::from(0_usize))
    }
}
