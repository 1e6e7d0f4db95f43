//! Owns statements that are put together at run time and executed many times in one call.
//!
//! Runs in: client backends.

use std::ffi::{CStr, c_char, c_int};

use pgrx::prelude::*;

use super::spi::{Access, Rows};

/// A statement that is prepared until the connection to SPI ends.
pub struct Prepared {
    plan: pg_sys::SPIPlanPtr,
}

impl Prepared {
    /// Prepares a statement with parameters of these types, within [`connected`](super::spi::connected).
    #[must_use]
    pub fn new(text: &CStr, types: &[pg_sys::Oid]) -> Self {
        // SAFETY: the text is a C string, and the array has this length.
        let plan = unsafe {
            pg_sys::SPI_prepare(
                text.as_ptr(),
                c_int::try_from(types.len()).unwrap_or(c_int::MAX),
                types.as_ptr().cast_mut(),
            )
        };
        if plan.is_null() {
            error!("could not prepare \"{}\"", text.to_string_lossy());
        }
        Self { plan }
    }

    /// Executes it with as many values as it has parameters, of their types.
    pub fn execute<const N: usize>(&self, arguments: [Option<pg_sys::Datum>; N], access: Access) -> Rows {
        let mut values = arguments.map(|argument| argument.unwrap_or(pg_sys::Datum::from(0_usize)));
        let nulls = arguments.map(|argument| if argument.is_some() { b' ' } else { b'n' } as c_char);
        // SAFETY: the plan lives as long as the connection; values and nulls outlive the call.
        let code = unsafe {
            pg_sys::SPI_execute_plan(
                self.plan,
                values.as_mut_ptr(),
                nulls.as_ptr(),
                access == Access::Read,
                0,
            )
        };
        if code < 0 {
            error!("could not execute a statement: SPI error {code}");
        }
        Rows::of_last_call()
    }
}
