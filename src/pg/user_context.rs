//! The user on whose behalf a session acts: for a while it can act as the owner of a table.
//!
//! `SECURITY DEFINER` would do the same, but a function with it cannot tell who has called it.

use std::ffi::c_int;

use pgrx::prelude::*;

use super::catalog::Member;
use super::relation::{self, OpenRelation};

/// The owner of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner(pg_sys::Oid);

impl Owner {
    /// That of one of the extension's tables; an ERROR if there is none.
    #[must_use]
    pub fn of(table: Member) -> Self {
        Self::of_table(table.existing())
    }

    /// That of a table; an ERROR if there is none.
    #[must_use]
    pub fn of_table(table: pg_sys::Oid) -> Self {
        Self::of_open(&OpenRelation::open(table, relation::UNLOCKED))
    }

    /// That of an open relation.
    #[must_use]
    pub fn of_open(relation: &OpenRelation) -> Self {
        Self(relation.class().relowner)
    }

    /// Whether `user` has all rights of the owner, as superusers have.
    #[must_use]
    pub fn is_matched_by(self, user: pg_sys::Oid) -> bool {
        // SAFETY: in a transaction; looks into the catalogs.
        user == self.0 || unsafe { pg_sys::has_privs_of_role(user, self.0) }
    }
}

/// While it lives, this session acts as the owner. What stands on the table as a trigger, default or check is the owner's code,
/// and runs now.
pub struct UserContext {
    user: pg_sys::Oid,
    context: i32,
    /// Settings that are changed from this level on go back at the end.
    level: Option<c_int>,
}

impl UserContext {
    /// Begins to act as `owner`, in an application's session. If the owner has fewer rights than the current user, then
    /// confined: what was left to be run at the commit would be run with the rights of that user.
    #[must_use]
    pub fn switch_to(owner: Owner) -> Self {
        let (user, context) = current();
        // SAFETY: in a transaction; looks into the catalogs.
        let has_fewer_rights = unsafe { !pg_sys::has_privs_of_role(owner.0, user) };
        Self::switch(user, context, owner, has_fewer_rights)
    }

    /// Begins to act as `owner` in a way from which there is no way back, as `VACUUM` and `REFRESH MATERIALIZED VIEW` do:
    /// nothing that runs meanwhile can leave a cursor, a temporary table, a prepared statement, a changed setting
    /// or a deferred trigger behind, or become somebody else.
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
        // SAFETY: as a call of a SECURITY DEFINER function does it; `drop` takes it back, and an ERROR's end of the
        // (sub)transaction would do it, too.
        let level = unsafe {
            pg_sys::SetUserIdAndSecContext(owner.0, new);
            confine.then(|| pg_sys::NewGUCNestLevel())
        };
        Self { user, context, level }
    }
}

impl Drop for UserContext {
    fn drop(&mut self) {
        // SAFETY: what was in force before. When an ERROR unwinds, the end of the (sub)transaction sets the settings back.
        unsafe {
            if let Some(level) = self.level.filter(|_| !std::thread::panicking()) {
                pg_sys::AtEOXact_GUC(false, level);
            }
            pg_sys::SetUserIdAndSecContext(self.user, self.context);
        }
    }
}

/// Whose rights this session has at present, and in which way.
fn current() -> (pg_sys::Oid, i32) {
    let (mut user, mut context) = (pg_sys::InvalidOid, 0);
    // SAFETY: reads two variables.
    unsafe { pg_sys::GetUserIdAndSecContext(&mut user, &mut context) };
    (user, context)
}

/// Acts as `owner`, confined, for the rest of the SECURITY DEFINER function that called this one. The function's end takes
/// it back, with the settings. An ERROR outside of such a function.
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
