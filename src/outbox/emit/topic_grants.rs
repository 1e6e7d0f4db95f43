//! Owns the check that a role may emit to a topic: `outbox.topic_grants` (`sql/outbox/topic_grants.sql`).
//!
//! Each session caches the grants, and reads them again after it learns of a change ([`crate::pg::watch`]).
//! So the check costs next to nothing while there are no grants.
//!
//! Runs in: client backends.

use std::cell::RefCell;

use event_outbox_policy::event::topic::Pattern;
use pgrx::prelude::*;

use crate::outbox::table::{TOPIC_GRANTS, TOPIC_GRANTS_WATCH};
use crate::pg::backend;
use crate::pg::function::{Arguments, sql_function};
use crate::pg::snapshot::Snapshot;
use crate::pg::spi::{self, Access, Statement};
use crate::pg::trigger::firing;
use crate::pg::user_context::{Owner, UserContext};
use crate::pg::user_error::UserError;

/// All grants, and whether each is effective: its role must have the right to read the table, which
/// `grant_topic()` grants. `DROP OWNED` revokes that right with all others, and so makes the grants
/// ineffective without any code of ours. The session may have any search path, so all names are qualified.
static ALL: Statement = Statement::new(
    c"SELECT g.role::pg_catalog.oid, g.pattern::pg_catalog.text, \
             c.relowner OPERATOR(pg_catalog.=) g.role::pg_catalog.oid OR EXISTS ( \
                 SELECT FROM pg_catalog.aclexplode(c.relacl) AS a \
                  WHERE a.grantee OPERATOR(pg_catalog.=) g.role::pg_catalog.oid \
                    AND a.privilege_type OPERATOR(pg_catalog.=) 'SELECT') \
        FROM outbox.topic_grants AS g JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) g.tableoid",
    &[],
);

sql_function!(outbox_topic_grants_changed, pg_finfo_outbox_topic_grants_changed, topic_grants_changed);

struct Grant {
    /// `None` if the grant is not effective. Its existence still closes topics to roles without a grant.
    role: Option<pg_sys::Oid>,
    pattern: Pattern,
}

/// The grants as of the change numbered `age`.
struct Known {
    age: u64,
    grants: Vec<Grant>,
}

thread_local! {
    static KNOWN: RefCell<Option<Known>> = const { RefCell::new(None) };
}

/// Trigger after each statement that changes the grants: tells this session at once, and all others at
/// commit.
fn topic_grants_changed(arguments: &Arguments) -> Option<pg_sys::Datum> {
    // SAFETY: the relation of a firing trigger is open.
    unsafe { pg_sys::CacheInvalidateRelcache(firing(arguments).tg_relation) };
    Some(pg_sys::Datum::from(0_usize))
}

/// Raises an error unless the current user may emit to this topic. `owner` is the owner of the events.
pub fn check(topic: &str, owner: Owner) {
    check_of(backend::user(), topic, owner);
}

/// Raises an error unless this user may emit to this topic. `owner` is the owner of the events.
pub fn check_of(user: pg_sys::Oid, topic: &str, owner: Owner) {
    if !may_emit(user, topic, owner) {
        refuse(user, topic);
    }
}

fn may_emit(user: pg_sys::Oid, topic: &str, owner: Owner) -> bool {
    refresh();
    KNOWN.with_borrow(|known| {
        let grants = known.as_ref().map_or(&[][..], |known| &known.grants);
        grants.is_empty()
            || owner.is_matched_by(user)
            || grants.iter().any(|grant| {
                // SAFETY: in a transaction; a dropped role has no members.
                let has_rights = |role| unsafe { pg_sys::has_privs_of_role(user, role) };
                grant.pattern.matches(topic) && grant.role.is_some_and(has_rights)
            })
    })
}

/// Reads the grants again if they have changed.
fn refresh() {
    // Postgres processes invalidations when it takes a lock; a transaction that already holds its locks would
    // miss them.
    // SAFETY: in a transaction, at a place where locks can be taken.
    unsafe { pg_sys::AcceptInvalidationMessages() };
    let is_fresh = KNOWN
        .with_borrow(|known| known.as_ref().is_some_and(|known| known.age == TOPIC_GRANTS_WATCH.changes()));
    if is_fresh {
        return;
    }
    let table = TOPIC_GRANTS.oid();
    TOPIC_GRANTS_WATCH.set_table(table);
    let age = TOPIC_GRANTS_WATCH.changes();
    let known = (table != pg_sys::InvalidOid).then(|| Known { age, grants: read() });
    KNOWN.set(known);
}

fn read() -> Vec<Grant> {
    let _owner = UserContext::switch_to(Owner::of(TOPIC_GRANTS));
    // The latest snapshot, not the transaction's: the cache outlives the transaction.
    let _snapshot = Snapshot::take_latest();
    spi::connected(|| {
        let rows = ALL.execute(&[], Access::Read, 0);
        rows.iter()
            .filter_map(|row| {
                let is_effective: bool = row.get(3)?;
                let role = row.get(1).filter(|_| is_effective);
                Some(Grant { role, pattern: Pattern::new(row.get::<&str>(2)?) })
            })
            .collect()
    })
}

fn refuse(user: pg_sys::Oid, topic: &str) -> ! {
    let name = backend::role_name(user);
    UserError {
        code: PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        message: format!("permission denied for topic \"{topic}\""),
        detail: format!("Neither role \"{name}\" nor a role whose rights it has was granted this topic."),
        hint: "An administrator can grant it with outbox.grant_topic().".into(),
    }
    .raise()
}
