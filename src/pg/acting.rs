//! Acting as the owner of the outbox: an application may emit, and not touch the table.
//!
//! `SECURITY DEFINER` would do the same, but then nobody could tell any more on whose behalf a function runs.

use std::ffi::CStr;

use pgrx::prelude::*;

use super::catalog;

/// The owner of a table of the schema `outbox`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner(pg_sys::Oid);

impl Owner {
    /// Looks it up.
    #[must_use]
    pub fn of(table: &CStr) -> Self {
        // SAFETY: in a transaction; what is opened is closed at once.
        unsafe {
            let relation = pg_sys::RelationIdGetRelation(catalog::existing(table));
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
