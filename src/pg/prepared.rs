//! Owns statements that are put together at run time and executed many times in one call.
//!
//! Runs in: client backends.

use std::ffi::{CStr, c_char, c_int};

use pgrx::prelude::*;

use super::compat::raw;
use super::refusal::{Refusal, catching};
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

    /// Executes it with as many values as it has parameters, of their types. An ERROR is returned as it is.
    pub fn execute<const N: usize>(
        &self,
        arguments: [Option<pg_sys::Datum>; N],
        access: Access,
    ) -> Result<Rows, Refusal> {
        let mut values = arguments.map(|argument| argument.unwrap_or(pg_sys::Datum::from(0_usize)));
        let nulls = arguments.map(|argument| if argument.is_some() { b' ' } else { b'n' } as c_char);
        let (plan, reads) = (self.plan, access == Access::Read);
        // SAFETY: the plan lives as long as the connection; values and nulls outlive the call, and need no drop.
        let code = unsafe {
            catching(|| raw::SPI_execute_plan(plan, values.as_mut_ptr(), nulls.as_ptr(), reads, 0))
        }?;
        if code < 0 {
            error!("could not execute a statement: SPI error {code}");
        }
        Ok(Rows::of_last_call())
    }
}
