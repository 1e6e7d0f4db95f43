//! Owns the user on whose behalf a session acts. A session can act as the owner of a table for a while.
//!
//! Runs in: any process with a database.
//!
//! `SECURITY DEFINER` would do the same, but such a function cannot tell its caller.

use std::ffi::c_int;

use pgrx::prelude::*;

use super::catalog::Member;
use super::relation::{self, OpenRelation};

/// The owner of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner(pg_sys::Oid);

impl Owner {
    /// The owner of one of the extension's tables; an ERROR if the table does not exist.
    #[must_use]
    pub fn of(table: Member) -> Self {
        Self::of_table(table.existing())
    }

    /// The owner of a table; an ERROR if the table does not exist.
    #[must_use]
    pub fn of_table(table: pg_sys::Oid) -> Self {
        Self::of_open(&OpenRelation::open(table, relation::UNLOCKED))
    }

    /// The owner of an open relation.
    #[must_use]
    pub fn of_open(relation: &OpenRelation) -> Self {
        Self(relation.class().relowner)
    }

    /// The owner's role.
    #[must_use]
    pub fn role(self) -> pg_sys::Oid {
        self.0
    }

    /// The role that created the cluster, which owns the catalogs.
    #[must_use]
    pub fn of_catalogs() -> Self {
        Self(pg_sys::Oid::from(pg_sys::BOOTSTRAP_SUPERUSERID))
    }

    /// The owner of an open relation.
    ///
    /// # Safety
    /// The relation is open.
    #[must_use]
    pub unsafe fn of_raw(relation: pg_sys::Relation) -> Self {
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

/// While it lives, this session acts as the owner. The table's triggers, defaults and checks are the owner's
/// code, and run with the owner's rights.
pub struct UserContext {
    user: pg_sys::Oid,
    context: i32,
    /// Settings that are changed from this level on are reset at the end.
    level: Option<c_int>,
}

impl UserContext {
    /// Begins to act as `owner`, in an application's session. It is confined if the owner has fewer rights
    /// than the current user: code deferred to the commit would run with the rights of that user.
    #[must_use]
    pub fn switch_to(owner: Owner) -> Self {
        let (user, context) = current();
        // SAFETY: in a transaction; looks into the catalogs.
        let has_fewer_rights = unsafe { !pg_sys::has_privs_of_role(owner.0, user) };
        Self::switch(user, context, owner, has_fewer_rights)
    }

    /// Begins to act as `owner`, confined as in `VACUUM` and `REFRESH MATERIALIZED VIEW`: the owner's code
    /// cannot leave a cursor, a temporary table, a prepared statement, a changed setting or a deferred
    /// trigger behind, and cannot become another user.
    #[must_use]
    pub fn confined_to(owner: Owner) -> Self {
        let (user, context) = current();
        Self::switch(user, context, owner, true)
    }

    fn switch(user: pg_sys::Oid, context: i32, owner: Owner, confine: bool) -> Self {
        let mut new = context | pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32;
        if confine {
            new |= pg_sys::SECURITY_RESTRICTED_OPERATION as i32;
        }
        // SAFETY: as in a call of a SECURITY DEFINER function. `drop` restores the context; after an ERROR,
        // the end of the (sub)transaction restores it, too.
        let level = unsafe {
            pg_sys::SetUserIdAndSecContext(owner.0, new);
            confine.then(|| pg_sys::NewGUCNestLevel())
        };
        Self { user, context, level }
    }
}

impl Drop for UserContext {
    fn drop(&mut self) {
        // SAFETY: restores the context of before. When an ERROR unwinds, the end of the (sub)transaction
        // resets the settings.
        unsafe {
            if let Some(level) = self.level.filter(|_| !std::thread::panicking()) {
                pg_sys::AtEOXact_GUC(false, level);
            }
            pg_sys::SetUserIdAndSecContext(self.user, self.context);
        }
    }
}

/// The user whose rights this session has at present, and the security context.
fn current() -> (pg_sys::Oid, i32) {
    let (mut user, mut context) = (pg_sys::InvalidOid, 0);
    // SAFETY: reads two variables.
    unsafe { pg_sys::GetUserIdAndSecContext(&mut user, &mut context) };
    (user, context)
}

/// Acts as `owner`, confined, for the rest of the SECURITY DEFINER function that called this one. The end of
/// that function restores the context and the settings. An ERROR outside of such a function.
pub fn confine_caller_to(owner: Owner) {
    let (user, context) = current();
    if context & pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32 == 0 {
        ereport!(
            ERROR,
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            "this function can only be called by a SECURITY DEFINER function"
        );
    }
    if owner.0 == user {
        return;
    }
    if !owner.is_matched_by(user) {
        ereport!(
            ERROR,
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            "permission denied to act as the owner of the table"
        );
    }
    let confined = pg_sys::SECURITY_RESTRICTED_OPERATION | pg_sys::SECURITY_LOCAL_USERID_CHANGE;
    // SAFETY: sets two variables.
    unsafe { pg_sys::SetUserIdAndSecContext(owner.0, context | confined as i32) };
}
