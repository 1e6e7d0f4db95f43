//! The rows of a set-returning function, which it returns all at once.

use pgrx::prelude::*;

use crate::pg::function::Arguments;

/// The rows that a call returns. They are copied as they are added, to disk if they are many.
pub struct Output {
    store: *mut pg_sys::Tuplestorestate,
    descriptor: pg_sys::TupleDesc,
}

impl Output {
    /// No rows yet; an ERROR if the call is in a place where no set can be.
    #[must_use]
    pub fn of(arguments: &Arguments) -> Self {
        let call = arguments.call();
        // SAFETY: the call is alive; Postgres has set it up for a set-returning function, or raises an ERROR here.
        unsafe {
            pg_sys::InitMaterializedSRF(call, 0);
            let info = &*(*call).resultinfo.cast::<pg_sys::ReturnSetInfo>();
            Self { store: info.setResult, descriptor: info.setDesc }
        }
    }

    /// Adds a row, whose values have the types of the columns.
    pub fn add<const N: usize>(&self, row: [Option<pg_sys::Datum>; N]) {
        let (mut values, mut nulls) = ([pg_sys::Datum::from(0_usize); N], [true; N]);
        for (column, value) in row.iter().enumerate() {
            if let Some(value) = value {
                (values[column], nulls[column]) = (*value, false);
            }
        }
        // SAFETY: the store and the descriptor live as long as the call; sql/ declares as many columns.
        unsafe {
            debug_assert_eq!((*self.descriptor).natts as usize, N);
            pg_sys::tuplestore_putvalues(
                self.store,
                self.descriptor,
                values.as_mut_ptr(),
                nulls.as_mut_ptr(),
            );
        }
    }
}
