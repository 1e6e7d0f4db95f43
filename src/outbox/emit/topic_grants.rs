//! Who may emit to which topics: `outbox.topic_grants` (`sql/outbox/topic_grants.sql`).
//!
//! Each session keeps the grants, and reads them anew when it has heard of a change ([`crate::pg::watch`]). So the check costs next to nothing while there are none.

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

/// Each grant, and whether it counts: its role has the right to see the table of them, which `grant_topic()` gives it.
/// `DROP OWNED` takes that right as it takes others, and with it the grants; so nothing of ours need run then. A session
/// may have any search path here.
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
    /// None for one that counts no more; but where it stands, topics are closed to those without a grant.
    role: Option<pg_sys::Oid>,
    pattern: Pattern,
}

/// The grants, as they were when they were read.
struct Known {
    age: u64,
    grants: Vec<Grant>,
}

thread_local! {
    static KNOWN: RefCell<Option<Known>> = const { RefCell::new(None) };
}

/// After each statement that changes the grants: all sessions hear of it when it commits, this one at once.
fn topic_grants_changed(arguments: &Arguments) -> Option<pg_sys::Datum> {
    // SAFETY: the relation of a firing trigger is open.
    unsafe { pg_sys::CacheInvalidateRelcache(firing(arguments).tg_relation) };
    Some(pg_sys::Datum::from(0_usize))
}

/// Raises an error unless the current user may emit to this topic; `owner` is that of the events.
pub fn check(topic: &str, owner: Owner) {
    let user = backend::user();
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
                // SAFETY: in a transaction; a role that is no more has no members.
                let has_rights = |role| unsafe { pg_sys::has_privs_of_role(user, role) };
                grant.pattern.matches(topic) && grant.role.is_some_and(has_rights)
            })
    })
}

/// Reads the grants, if they have changed since.
fn refresh() {
    // A transaction that has all its locks would not hear of a change before its end.
    // SAFETY: in a transaction, at a place where locks could be taken as well.
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
    // What is committed now, though the transaction may have an older snapshot: it is kept beyond its end.
    let _snapshot = Snapshot::take_latest();
    spi::connected(|| {
        let rows = ALL.execute(&[], Access::Read, 0);
        rows.iter()
            .filter_map(|row| {
                let counts: bool = row.get(3)?;
                let role = row.get(1).filter(|_| counts);
                Some(Grant { role, pattern: Pattern::new(row.get::<&str>(2)?) })
            })
            .collect()
    })
}

fn refuse(user: pg_sys::Oid, topic: &str) -> ! {
    // SAFETY: in a transaction; gives a C string, or null for a user that is no more.
    let name = unsafe {
        let name = pg_sys::GetUserNameFromId(user, true);
        if name.is_null() {
            user.to_u32().to_string()
        } else {
            std::ffi::CStr::from_ptr(name).to_string_lossy().into_owned()
        }
    };
    UserError {
        code: PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        message: format!("permission denied for topic \"{topic}\""),
        detail: format!("Neither role \"{name}\" nor a role whose rights it has was granted this topic."),
        hint: "An administrator can grant it with outbox.grant_topic().".into(),
    }
    .raise()
}
