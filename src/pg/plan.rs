//! Owns plans of statements whose text is made at run time, and kept until they are dropped.
//!
//! Runs in: any process with a database.

use std::ffi::{CStr, c_char, c_int};

use pgrx::prelude::*;

/// A prepared statement. It is planned for the values of each execution.
pub struct Plan(pg_sys::SPIPlanPtr);

impl Plan {
    /// Prepares a statement with the types of `$1`, `$2`, …, within [`super::spi::connected`].
    #[must_use]
    pub fn prepare(text: &CStr, types: &[pg_sys::Oid]) -> Self {
        // SAFETY: the text is a C string, and the array has this length.
        unsafe {
            let plan = pg_sys::SPI_prepare_cursor(
                text.as_ptr(),
                c_int::try_from(types.len()).unwrap_or(c_int::MAX),
                types.as_ptr().cast_mut(),
                pg_sys::CURSOR_OPT_CUSTOM_PLAN as c_int,
            );
            if plan.is_null() || pg_sys::SPI_keepplan(plan) != 0 {
                error!("could not prepare \"{}\"", text.to_string_lossy());
            }
            Self(plan)
        }
    }

    /// Executes it with a new snapshot, within [`super::spi::connected`].
    pub fn execute(&self, arguments: &[Option<pg_sys::Datum>]) {
        let mut values: Vec<pg_sys::Datum> =
            arguments.iter().map(|argument| argument.unwrap_or(pg_sys::Datum::from(0_usize))).collect();
        let nulls: Vec<c_char> =
            arguments.iter().map(|argument| if argument.is_some() { b' ' } else { b'n' } as c_char).collect();
        // SAFETY: the plan is kept; values and nulls have one entry per parameter and outlive the call.
        let code = unsafe { pg_sys::SPI_execute_plan(self.0, values.as_mut_ptr(), nulls.as_ptr(), false, 0) };
        if code < 0 {
            error!("could not execute a plan: SPI error {code}");
        }
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: the plan is kept, and nothing executes it.
        unsafe { pg_sys::SPI_freeplan(self.0) };
    }
}
