//! Where the extension's objects are.

use std::cell::Cell;
use std::ffi::CStr;

use pgrx::prelude::*;

use super::compat;
use super::relation::{self, OpenRelation};

/// Relations that a process remembers to be the extension's: those that are looked up for each event, and some more.
const REMEMBERED: usize = 8;

thread_local! {
    /// The oids of such relations. What belongs to an extension is dropped with it; an oid is not given again.
    static OURS: Cell<[pg_sys::Oid; REMEMBERED]> = const { Cell::new([pg_sys::InvalidOid; REMEMBERED]) };
}

/// The extension whose library this is.
const EXTENSION: &CStr = c"event_outbox";

/// The oid of the extension in this database; invalid if there is none. In a transaction.
#[must_use]
pub fn extension() -> pg_sys::Oid {
    // SAFETY: a look-up by a C string that answers with InvalidOid where there is nothing.
    unsafe { pg_sys::get_extension_oid(EXTENSION.as_ptr(), true) }
}

/// A table, view or sequence that the extension has made, by name.
#[derive(Debug, Clone, Copy)]
pub struct Member {
    schema: &'static CStr,
    name: &'static CStr,
}

impl Member {
    /// That of this schema and name.
    #[must_use]
    pub const fn new(schema: &'static CStr, name: &'static CStr) -> Self {
        Self { schema, name }
    }

    /// Its name without the schema.
    #[must_use]
    pub const fn name(&self) -> &'static CStr {
        self.name
    }

    /// Its oid; invalid if there is none. A relation that merely has the name, in a database without the extension or
    /// beside it, is not found. In a transaction.
    #[must_use]
    pub fn oid(&self) -> pg_sys::Oid {
        // SAFETY: look-ups by C strings that answer with InvalidOid where there is nothing.
        let relation = unsafe {
            let schema = pg_sys::get_namespace_oid(self.schema.as_ptr(), true);
            pg_sys::get_relname_relid(self.name.as_ptr(), schema)
        };
        if relation == pg_sys::InvalidOid || is_ours(relation) { relation } else { pg_sys::InvalidOid }
    }

    /// The same; an ERROR if there is none.
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

/// Whether a relation is a member of the extension. In a transaction.
fn is_ours(relation: pg_sys::Oid) -> bool {
    let mut ours = OURS.get();
    if ours.contains(&relation) {
        return true;
    }
    let extension = extension();
    // SAFETY: a look-up in a catalog that answers with InvalidOid where there is nothing.
    let is_member = extension != pg_sys::InvalidOid
        && unsafe { pg_sys::getExtensionOfObject(pg_sys::RelationRelationId, relation) } == extension;
    if is_member {
        ours.rotate_right(1);
        ours[0] = relation;
        OURS.set(ours);
    }
    is_member
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

/// Whether a table has any page. In a transaction, which keeps its lock.
#[must_use]
pub fn has_pages(table: pg_sys::Oid) -> bool {
    OpenRelation::open(table, relation::READ).blocks() > 0
}
