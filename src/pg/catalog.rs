//! Where the objects of the schema `outbox` are.

use std::ffi::CStr;

use pgrx::prelude::*;

use super::compat;

/// A table, view or sequence of the schema `outbox`; invalid if there is none.
#[must_use]
pub fn relation(name: &CStr) -> pg_sys::Oid {
    // SAFETY: look-ups by C strings that answer with InvalidOid where there is nothing.
    unsafe {
        let schema = pg_sys::get_namespace_oid(c"outbox".as_ptr(), true);
        pg_sys::get_relname_relid(name.as_ptr(), schema)
    }
}

/// The same; an ERROR if there is none.
#[must_use]
pub fn existing(name: &CStr) -> pg_sys::Oid {
    let table = relation(name);
    if table == pg_sys::InvalidOid {
        ereport!(
            ERROR,
            PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
            format!("relation \"outbox.{}\" does not exist", name.to_string_lossy())
        );
    }
    table
}

/// The names and descriptions of a table's columns, dropped ones too, in the order of their positions.
///
/// # Safety
/// The relation is open as long as these are used.
pub unsafe fn columns<'a>(
    relation: pg_sys::Relation,
) -> impl Iterator<Item = (&'a CStr, &'a pg_sys::FormData_pg_attribute)> + Clone {
    // SAFETY: as promised by the caller; the name of a column ends with a zero.
    unsafe {
        let descriptor = (*relation).rd_att;
        (0..(*descriptor).natts as usize).map(move |at| {
            let column = &*compat::attribute(descriptor, at);
            (CStr::from_ptr(column.attname.data.as_ptr()), column)
        })
    }
}
