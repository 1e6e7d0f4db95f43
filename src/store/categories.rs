//! Owns what sessions remember of categories: who may append to them and read them, and where their events are published.
//!
//! Runs in: client backends.

use std::cell::RefCell;
use std::collections::HashMap;

use event_outbox_policy::event::topic::Pattern;
use pgrx::prelude::*;

use super::{STREAM, member};
use crate::pg::backend;
use crate::pg::catalog::Member;
use crate::pg::function::{Arguments, sql_function};
use crate::pg::snapshot::Snapshot;
use crate::pg::spi::{self, Access, Row, Statement};
use crate::pg::user_context::{Owner, UserContext};
use crate::pg::user_error::UserError;
use crate::pg::watch::Watch;

sql_function!(event_store_for_caller, pg_finfo_event_store_for_caller, for_caller);

const GRANTS: Member = member(c"category_grants");
const BINDINGS: Member = member(c"category_binding");

/// Watches the grants.
pub static GRANTS_WATCH: Watch = Watch::over_table();
/// Watches the bindings.
pub static BINDINGS_WATCH: Watch = Watch::over_table();

/// The grants that are effective: the role must have the right to read the table, which `grant_category()` grants. `DROP
/// OWNED` revokes that right with all others.
static ALL_GRANTS: Statement = Statement::new(
    c"SELECT g.role::pg_catalog.oid, g.category, g.may_append, g.may_read \
        FROM event_store.category_grants AS g JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) g.tableoid \
       WHERE c.relowner OPERATOR(pg_catalog.=) g.role::pg_catalog.oid OR EXISTS ( \
                 SELECT FROM pg_catalog.aclexplode(c.relacl) AS a \
                  WHERE a.grantee OPERATOR(pg_catalog.=) g.role::pg_catalog.oid \
                    AND a.privilege_type OPERATOR(pg_catalog.=) 'SELECT')",
    &[],
);

static ALL_BINDINGS: Statement =
    Statement::new(c"SELECT b.category, b.topic FROM event_store.category_binding AS b", &[]);

/// What somebody wants to do with a category.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    /// To append to its streams.
    Append,
    /// To read them.
    Read,
}

struct Grant {
    role: pg_sys::Oid,
    pattern: Pattern,
    may_append: bool,
    may_read: bool,
}

/// What was read as of a change.
struct Known<T> {
    age: u64,
    content: T,
}

thread_local! {
    static KNOWN_GRANTS: RefCell<Option<Known<Vec<Grant>>>> = const { RefCell::new(None) };
    static KNOWN_BINDINGS: RefCell<Option<Known<HashMap<String, String>>>> = const { RefCell::new(None) };
}

/// Functions that read and write the tables for users who may not. See [`crate::pg::for_caller`].
fn for_caller(arguments: &Arguments) -> Option<pg_sys::Datum> {
    crate::pg::for_caller::call_for_caller(arguments, STREAM)
}

/// Raises an error unless the current user has the privilege on the category.
pub fn require(category: &str, privilege: Privilege, owner: Owner) {
    let user = backend::user();
    if owner.is_matched_by(user) {
        return;
    }
    // Postgres processes invalidations when it takes a lock; a transaction that already holds its locks would miss them.
    // SAFETY: in a transaction, at a place where locks can be taken.
    unsafe { pg_sys::AcceptInvalidationMessages() };
    let is_granted = with_known(&KNOWN_GRANTS, &GRANTS_WATCH, GRANTS, read_grants, |grants| {
        grants.iter().any(|grant| {
            // SAFETY: in a transaction; a dropped role has no members.
            let has_rights = |role| unsafe { pg_sys::has_privs_of_role(user, role) };
            let is_for = match privilege {
                Privilege::Append => grant.may_append,
                Privilege::Read => grant.may_read,
            };
            is_for && grant.pattern.matches(category) && has_rights(grant.role)
        })
    });
    if !is_granted {
        refuse(user, category, privilege);
    }
}

/// The topic to which the events of a category are published.
#[must_use]
pub fn topic_of(category: &str) -> Option<String> {
    // SAFETY: as above.
    unsafe { pg_sys::AcceptInvalidationMessages() };
    with_known(&KNOWN_BINDINGS, &BINDINGS_WATCH, BINDINGS, read_bindings, |bindings| {
        bindings.get(category).cloned()
    })
}

/// Looks into what is known, which is read again if it has changed.
fn with_known<T, R>(
    known: &'static std::thread::LocalKey<RefCell<Option<Known<T>>>>,
    watch: &'static Watch,
    table: Member,
    read: fn() -> T,
    look: impl FnOnce(&T) -> R,
) -> R {
    let is_fresh =
        known.with_borrow(|known| known.as_ref().is_some_and(|known| known.age == watch.changes()));
    if !is_fresh {
        watch.set_table(table.existing());
        let age = watch.changes();
        let content = {
            let _owner = UserContext::switch_to(Owner::of(STREAM));
            // The latest snapshot, not the transaction's: what is known outlives the transaction.
            let _snapshot = Snapshot::take_latest();
            spi::connected(read)
        };
        known.set(Some(Known { age, content }));
    }
    known.with_borrow(|known| match known {
        Some(known) => look(&known.content),
        None => error!("what is known of categories is gone"),
    })
}

fn read_grants() -> Vec<Grant> {
    let grant = |row: Row| {
        Some(Grant {
            role: row.get(1)?,
            pattern: Pattern::new(row.get::<&str>(2)?),
            may_append: row.get(3)?,
            may_read: row.get(4)?,
        })
    };
    ALL_GRANTS.execute(&[], Access::Read, 0).iter().filter_map(grant).collect()
}

fn read_bindings() -> HashMap<String, String> {
    let binding = |row: Row| Some((row.get(1)?, row.get(2)?));
    ALL_BINDINGS.execute(&[], Access::Read, 0).iter().filter_map(binding).collect()
}

fn refuse(user: pg_sys::Oid, category: &str, privilege: Privilege) -> ! {
    let name = backend::role_name(user);
    let what = match privilege {
        Privilege::Append => "append to it",
        Privilege::Read => "read it",
    };
    UserError {
        code: PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        message: format!("permission denied for category \"{category}\""),
        detail: format!("Neither role \"{name}\" nor a role whose rights it has may {what}."),
        hint: "An administrator can grant it with event_store.grant_category().".into(),
    }
    .raise()
}
