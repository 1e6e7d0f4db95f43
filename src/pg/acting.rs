//! Acting as the owner of the outbox: an application may emit, and not touch the table.
//!
//! `SECURITY DEFINER` would do the same, but then nobody could tell any more on whose behalf a function runs.

use std::ffi::CStr;

use pgrx::prelude::*;

/// The owner of a table of the schema `outbox`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner(pg_sys::Oid);

impl Owner {
    /// Looks it up.
    #[must_use]
    pub fn of(table: &CStr) -> Self {
        // SAFETY: in a transaction; what is opened is closed at once.
        unsafe {
            let relation = pg_sys::RelationIdGetRelation(existing(table));
            let owner = Self::of_open(relation);
            pg_sys::RelationClose(relation);
            owner
        }
    }

    /// That of an open relation.
    ///
    /// # Safety
    /// It is open.
    #[must_use]
    pub unsafe fn of_open(relation: pg_sys::Relation) -> Self {
        // SAFETY: as promised by the caller.
        Self(unsafe { (*(*relation).rd_rel).relowner })
    }

    /// Whether `user` has all rights of the owner, as superusers have.
    #[must_use]
    pub fn is_matched_by(self, user: pg_sys::Oid) -> bool {
        // SAFETY: in a transaction; looks into the catalogs.
        user == self.0 || unsafe { pg_sys::has_privs_of_role(user, self.0) }
    }
}

/// A table of the schema `outbox`; invalid if there is none.
#[must_use]
pub fn relation(name: &CStr) -> pg_sys::Oid {
    // SAFETY: look-ups by C strings that answer with InvalidOid where there is nothing.
    unsafe {
        let schema = pg_sys::get_namespace_oid(c"outbox".as_ptr(), true);
        pg_sys::get_relname_relid(name.as_ptr(), schema)
    }
}

/// A table of the schema `outbox`; an ERROR if there is none.
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

/// While it lives, this session acts as the owner.
pub struct Acting {
    user: pg_sys::Oid,
    context: i32,
}

impl Acting {
    /// Begins to act as `owner`.
    #[must_use]
    pub fn begin(owner: Owner) -> Self {
        let (mut user, mut context) = (pg_sys::InvalidOid, 0);
        // SAFETY: as a call of a SECURITY DEFINER function does it; `drop` takes it back, and an ERROR's end of the
        // (sub)transaction would do it, too.
        unsafe {
            pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
            pg_sys::SetUserIdAndSecContext(owner.0, context | pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32);
        }
        Self { user, context }
    }
}

impl Drop for Acting {
    fn drop(&mut self) {
        // SAFETY: what was in force before; sets two variables, and raises no error.
        unsafe { pg_sys::SetUserIdAndSecContext(self.user, self.context) }
    }
}
