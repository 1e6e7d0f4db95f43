//! Owns the search for the extension's own objects.
//!
//! Runs in: any process with a database.

use std::cell::Cell;
use std::ffi::CStr;

use pgrx::prelude::*;

use super::compat;
use super::relation::{self, OpenRelation};

/// How many of the extension's relations a process remembers: those that it looks up for each event, and some
/// more.
const REMEMBERED: usize = 8;

thread_local! {
    /// Their oids. A member of an extension is dropped with it, and its oid is not used again.
    static OURS: Cell<[pg_sys::Oid; REMEMBERED]> = const { Cell::new([pg_sys::InvalidOid; REMEMBERED]) };
}

/// The name of the extension that this library belongs to.
const EXTENSION: &CStr = c"event_outbox";

/// The oid of the extension in this database; invalid if the database lacks it. Call it in a transaction.
#[must_use]
pub fn extension() -> pg_sys::Oid {
    // SAFETY: a lookup by a C string that returns InvalidOid if it finds nothing.
    unsafe { pg_sys::get_extension_oid(EXTENSION.as_ptr(), true) }
}

/// A table, view or sequence that the extension has created, by name.
#[derive(Debug, Clone, Copy)]
pub struct Member {
    schema: &'static CStr,
    name: &'static CStr,
}

impl Member {
    /// The relation of this schema and name.
    #[must_use]
    pub const fn new(schema: &'static CStr, name: &'static CStr) -> Self {
        Self { schema, name }
    }

    /// Its schema.
    #[must_use]
    pub const fn schema(&self) -> &'static CStr {
        self.schema
    }

    /// Its name without the schema.
    #[must_use]
    pub const fn name(&self) -> &'static CStr {
        self.name
    }

    /// Its oid; invalid if it does not exist. A relation that merely has the same name, with or without the
    /// extension in the database, is not found. Call it in a transaction.
    #[must_use]
    pub fn oid(&self) -> pg_sys::Oid {
        // SAFETY: lookups by C strings that return InvalidOid if they find nothing.
        let relation = unsafe {
            let schema = pg_sys::get_namespace_oid(self.schema.as_ptr(), true);
            pg_sys::get_relname_relid(self.name.as_ptr(), schema)
        };
        if relation == pg_sys::InvalidOid || is_ours(relation) { relation } else { pg_sys::InvalidOid }
    }

    /// Its oid; an ERROR if it does not exist.
    #[must_use]
    pub fn existing(&self) -> pg_sys::Oid {
        let relation = self.oid();
        if relation == pg_sys::InvalidOid {
            let [schema, name] = [self.schema, self.name].map(CStr::to_string_lossy);
            ereport!(
                ERROR,
                PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
                format!("relation \"{schema}.{name}\" does not exist")
            );
        }
        relation
    }
}

/// Whether a relation is a member of the extension. Call it in a transaction.
fn is_ours(relation: pg_sys::Oid) -> bool {
    let mut ours = OURS.get();
    if ours.contains(&relation) {
        return true;
    }
    let extension = extension();
    // SAFETY: a lookup in a catalog that returns InvalidOid if it finds nothing.
    let is_member = extension != pg_sys::InvalidOid
        && unsafe { pg_sys::getExtensionOfObject(pg_sys::RelationRelationId, relation) } == extension;
    if is_member {
        ours.rotate_right(1);
        ours[0] = relation;
        OURS.set(ours);
    }
    is_member
}

/// Whether a user owns a relation, or has the rights of its owner. An ERROR if there is no such relation. In a transaction.
#[must_use]
pub fn owns(user: pg_sys::Oid, relation: pg_sys::Oid) -> bool {
    // SAFETY: in a transaction; looks into the catalogs.
    unsafe {
        #[cfg(feature = "pg15")]
        return pg_sys::pg_class_ownercheck(relation, user);
        #[cfg(not(feature = "pg15"))]
        return pg_sys::object_ownercheck(pg_sys::RelationRelationId, relation, user);
    }
}

/// Whether a relation belongs to any extension. In a transaction.
#[must_use]
pub fn is_of_extension(relation: pg_sys::Oid) -> bool {
    // SAFETY: a lookup in a catalog that returns InvalidOid if it finds nothing.
    unsafe { pg_sys::getExtensionOfObject(pg_sys::RelationRelationId, relation) != pg_sys::InvalidOid }
}

/// The names and descriptions of a table's columns, including dropped ones, in the order of their positions.
///
/// # Safety
/// The relation is open as long as these are used.
pub unsafe fn columns<'a>(
    relation: pg_sys::Relation,
) -> impl Iterator<Item = (&'a CStr, &'a pg_sys::FormData_pg_attribute)> + Clone {
    // SAFETY: as promised by the caller.
    unsafe { columns_of((*relation).rd_att) }
}

/// The same for rows that are described so.
///
/// # Safety
/// The descriptor is alive as long as these are used.
pub unsafe fn columns_of<'a>(
    descriptor: pg_sys::TupleDesc,
) -> impl Iterator<Item = (&'a CStr, &'a pg_sys::FormData_pg_attribute)> + Clone {
    // SAFETY: as promised by the caller; the name of a column is NUL-terminated.
    unsafe {
        (0..(*descriptor).natts as usize).map(move |at| {
            let column = &*compat::attribute(descriptor, at);
            (CStr::from_ptr(column.attname.data.as_ptr()), column)
        })
    }
}

/// Whether a table has any page. Call it in a transaction, which keeps the lock.
#[must_use]
pub fn has_pages(table: pg_sys::Oid) -> bool {
    OpenRelation::open(table, relation::READ).blocks() > 0
}
