//! Owns the rows that functions behind views return, and the check that the caller may read the view.
//!
//! Runs in: client backends.

use pgrx::prelude::*;

use super::backend;
use super::catalog::Member;
use super::compat;
use super::function::Arguments;

/// Checks the right to read a view. A function in a view runs with the rights of the view's reader. So
/// exactly the roles that may read the view pass.
pub fn require_select(view: Member) {
    // SAFETY: the checks that Postgres itself makes of a view's reader; a relation that there is not is
    // refused.
    unsafe {
        let result = pg_sys::pg_class_aclcheck(view.oid(), backend::user(), compat::ACL_SELECT);
        if result != pg_sys::AclResult::ACLCHECK_OK {
            pg_sys::aclcheck_error(result, pg_sys::ObjectType::OBJECT_VIEW, view.name().as_ptr());
        }
    }
}

/// Microseconds since 1970 as a timestamp; 0 is never.
#[must_use]
pub fn time(micros: i64) -> Option<pg_sys::Datum> {
    (micros != 0).then(|| pg_sys::Datum::from(compat::pg_timestamp(micros)))
}

/// The columns as one row of the function's declared result, as many as that has.
#[must_use]
pub fn row(arguments: &Arguments, columns: &[Option<pg_sys::Datum>]) -> Option<pg_sys::Datum> {
    let mut values: Vec<_> =
        columns.iter().map(|column| column.unwrap_or(pg_sys::Datum::from(0_usize))).collect();
    let mut nulls: Vec<_> = columns.iter().map(Option::is_none).collect();
    let mut descriptor = std::ptr::null_mut();
    // SAFETY: the call is alive; the declared result has at most as many columns, of these types.
    unsafe {
        let class = pg_sys::get_call_result_type(arguments.call(), std::ptr::null_mut(), &mut descriptor);
        if class != pg_sys::TypeFuncClass::TYPEFUNC_COMPOSITE
            || usize::try_from((*descriptor).natts).is_ok_and(|natts| natts > columns.len())
        {
            error!("the status is a row of up to {} columns", columns.len());
        }
        pg_sys::BlessTupleDesc(descriptor);
        let tuple = pg_sys::heap_form_tuple(descriptor, values.as_mut_ptr(), nulls.as_mut_ptr());
        Some(pg_sys::HeapTupleHeaderGetDatum((*tuple).t_data))
    }
}
