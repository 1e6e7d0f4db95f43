//! Owns tables that are captured, or are to be: who may decide of them, their triggers, their names in SQL.
//!
//! Runs in: client backends.

use std::ffi::{CStr, CString};

use pgrx::prelude::*;

use super::trigger::outbox_capture_changes;
use crate::pg::relation::{self, OpenRelation};
use crate::pg::user_error::UserError;
use crate::pg::{backend, catalog, compat, trigger};

/// Opens and locks a table that the current user owns.
pub fn open(table: pg_sys::Oid, lock: pg_sys::LOCKMODE) -> OpenRelation {
    if !catalog::owns(backend::user(), table) {
        // SAFETY: the relation exists, and so its name, or it is shown by number.
        let name = unsafe {
            let name = pg_sys::get_rel_name(table);
            if name.is_null() {
                table.to_u32().to_string()
            } else {
                CStr::from_ptr(name).to_string_lossy().into_owned()
            }
        };
        UserError {
            code: PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            message: format!("must be owner of table {name}"),
            detail: "What is captured of a table is decided by its owner.".into(),
            hint: "Call the function as the owner of the table.".into(),
        }
        .raise();
    }
    OpenRelation::open(table, lock)
}

/// The error that no table was named.
pub fn no_table() -> ! {
    UserError {
        code: PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
        message: "the table must not be null".into(),
        detail: "A capture belongs to one table.".into(),
        hint: "For example: outbox.capture('orders', 'fat').".into(),
    }
    .raise()
}

/// The triggers of a table that capture it.
pub fn ours(table: &OpenRelation) -> impl Iterator<Item = &pg_sys::Trigger> {
    trigger::calling(table, outbox_capture_changes)
}

/// A command, or a part of it, for Postgres.
pub fn command(text: String) -> CString {
    // Names and texts of Postgres contain no NUL.
    CString::new(text).unwrap_or_default()
}

/// A name as it is written in SQL.
pub fn identifier(name: &CStr) -> String {
    // SAFETY: a C string; so is the result.
    unsafe { CStr::from_ptr(pg_sys::quote_identifier(name.as_ptr())) }.to_string_lossy().into_owned()
}

/// The table's name with its schema, as it is written in SQL.
pub fn qualified(table: &OpenRelation) -> String {
    let class = table.class();
    // SAFETY: the names of a relation and its schema are C strings.
    let (schema, name) = unsafe {
        let schema = pg_sys::get_namespace_name(class.relnamespace);
        (CStr::from_ptr(schema), CStr::from_ptr(class.relname.data.as_ptr()))
    };
    format!("{}.{}", identifier(schema), identifier(name))
}

/// The columns of the primary key; none if the table has none.
pub fn primary_key(table: &OpenRelation) -> Vec<CString> {
    // SAFETY: the relation is open.
    let index = unsafe {
        // Fills what is asked for next.
        pg_sys::RelationGetIndexList(table.raw());
        compat::primary_key_index(table.raw())
    };
    if index == pg_sys::InvalidOid {
        return Vec::new();
    }
    let index = OpenRelation::open(index, relation::READ);
    // SAFETY: an open index has a description, with as many columns as it says; the table is open and has them.
    unsafe {
        let described = &*index.data().rd_index;
        let count = usize::try_from(described.indnkeyatts).unwrap_or(0);
        let numbers = described.indkey.values.as_slice(count);
        let all: Vec<_> = catalog::columns(table.raw()).map(|(name, _)| name).collect();
        let places = numbers.iter().filter_map(|number| usize::try_from(*number).ok()?.checked_sub(1));
        places.filter_map(|at| Some((*all.get(at)?).to_owned())).collect()
    }
}
