//! Owns the observer of `ALTER TABLE … RENAME COLUMN`: the definition of a capture names columns, and follows their names.
//! A secret that is excepted stays so under another name, and a dump has the names that its tables have.
//!
//! Runs in: client backends, around utility commands.

use std::ffi::CStr;

use event_outbox_policy::event::capture::definition::Definition;
use pgrx::prelude::*;

use crate::pg::spi::{self, Access, Statement};
use crate::pg::user_context::{Owner, UserContext};
use crate::pg::utility_hook::{After, Observer};
use crate::pg::{backend, catalog};

/// The triggers of captures on a table, its partitions and its children, whose columns are renamed with it.
static TRIGGERS: Statement = Statement::new(
    c"WITH RECURSIVE all_of (oid) AS ( \
          SELECT $1 UNION \
          SELECT i.inhrelid FROM all_of JOIN pg_catalog.pg_inherits AS i ON i.inhparent OPERATOR(pg_catalog.=) all_of.oid) \
      SELECT t.oid, t.tgrelid, t.tgargs \
        FROM all_of JOIN pg_catalog.pg_trigger AS t ON t.tgrelid OPERATOR(pg_catalog.=) all_of.oid \
        JOIN pg_catalog.pg_depend AS d ON d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass \
         AND d.objid OPERATOR(pg_catalog.=) t.tgfoid AND d.deptype OPERATOR(pg_catalog.=) 'e' \
         AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass \
         AND d.refobjid OPERATOR(pg_catalog.=) $2 \
       WHERE t.tgnargs OPERATOR(pg_catalog.=) 1",
    &[pg_sys::OIDOID, pg_sys::OIDOID],
);

static SET_ARGUMENT: Statement = Statement::new(
    c"UPDATE pg_catalog.pg_trigger SET tgargs = $2 WHERE oid OPERATOR(pg_catalog.=) $1",
    &[pg_sys::OIDOID, pg_sys::BYTEAOID],
);

/// Observes the commands.
pub static OBSERVER: Renames = Renames;

/// The observer.
pub struct Renames;

impl Observer for Renames {
    fn observes(&self, tag: pg_sys::NodeTag) -> bool {
        tag == pg_sys::NodeTag::T_RenameStmt
    }

    /// The definition is changed before the column: if the command fails, neither is.
    unsafe fn before(&self, statement: *mut pg_sys::Node) -> Option<After> {
        // SAFETY: as promised by the caller, a RENAME.
        let renamed = unsafe { (*statement.cast::<pg_sys::RenameStmt>()).renameType };
        // Where the extension is not, nothing of the command is looked at.
        let extension = if renamed == pg_sys::ObjectType::OBJECT_COLUMN {
            catalog::extension()
        } else {
            pg_sys::InvalidOid
        };
        if extension == pg_sys::InvalidOid {
            return None;
        }
        // SAFETY: as above. The names of a column are C strings.
        let (table, old, new) = unsafe {
            let rename = &*statement.cast::<pg_sys::RenameStmt>();
            if rename.relation.is_null() {
                return None;
            }
            let table = pg_sys::RangeVarGetRelidExtended(
                rename.relation,
                pg_sys::NoLock as pg_sys::LOCKMODE,
                pg_sys::RVROption::RVR_MISSING_OK,
                None,
                std::ptr::null_mut(),
            );
            (
                table,
                CStr::from_ptr(rename.subname).to_str().ok()?,
                CStr::from_ptr(rename.newname).to_str().ok()?,
            )
        };
        // Otherwise the command fails.
        if table != pg_sys::InvalidOid && catalog::owns(backend::user(), table) {
            rename_in_captures(table, extension, old, new);
        }
        None
    }
}

fn rename_in_captures(table: pg_sys::Oid, extension: pg_sys::Oid, old: &str, new: &str) {
    spi::connected(|| {
        let found = TRIGGERS.execute(&[table.into_datum(), extension.into_datum()], Access::Read, 0);
        for row in found.iter() {
            let (id, relation) = (row.get::<pg_sys::Oid>(1), row.get::<pg_sys::Oid>(2));
            let definition = row.get::<&[u8]>(3).and_then(|bytes| {
                let text = std::str::from_utf8(bytes.strip_suffix(b"\0")?).ok()?;
                Definition::parse(text)?.renamed(old, new)
            });
            let (Some(definition), Some(relation)) = (definition, relation) else { continue };
            let mut argument = definition.to_text().into_bytes();
            argument.push(0);
            // Nobody else may change a catalog; the command that follows changes it, too.
            let _owner = UserContext::confined_to(Owner::of_catalogs());
            SET_ARGUMENT.execute(&[id.into_datum(), argument.into_datum()], Access::Write, 0);
            // SAFETY: the relation exists: its trigger does.
            unsafe { pg_sys::CacheInvalidateRelcacheByRelid(relation) };
        }
    });
}
