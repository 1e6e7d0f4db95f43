//! The subscription from which a session receives, and whether it may.
//!
//! A session remembers what it has read, and reads it again after it learns of a change ([`crate::pg::watch`]).

use std::cell::RefCell;
use std::rc::Rc;

use event_outbox_policy::inbox::lanes::Ordering;
use pgrx::prelude::*;

use super::log::Log;
use crate::inbox::table::{SUBSCRIPTION, member};
use crate::pg::backend;
use crate::pg::catalog::Member;
use crate::pg::function::{Arguments, sql_function};
use crate::pg::snapshot::Snapshot;
use crate::pg::spi::{Access, Row, Statement, text};
use crate::pg::trigger::firing;
use crate::pg::user_error::UserError;
use crate::pg::varlena::KeptText;
use crate::pg::watch::Watch;

/// With the rights of roles to receive: `admin` is the owner of the tables, and those in `members` count with their members.
macro_rules! subscription {
    ($condition:expr) => {
        text!(
            "SELECT s.id, s.source_id, s.name, s.ordering, s.max_attempts, s.first_position, s.last_position, \
                    s.paused_at IS NOT NULL, \
                    (SELECT pg_catalog.array_agg(g.number ORDER BY g.first_position) FROM inbox.segment AS g), \
                    (SELECT pg_catalog.array_agg(g.first_position ORDER BY g.first_position) FROM inbox.segment AS g), \
                    c.relowner, \
                    ARRAY(SELECT m.role::pg_catalog.oid \
                            FROM (SELECT s.owner AS role UNION ALL \
                                  SELECT g.role FROM inbox.subscription_grants AS g \
                                   WHERE g.subscription_id OPERATOR(pg_catalog.=) s.id) AS m \
                           WHERE inbox.is_marked(m.role, 'inbox.subscription_grants'::pg_catalog.regclass)), \
                    EXISTS (SELECT FROM inbox.projection AS p WHERE p.subscription_id OPERATOR(pg_catalog.=) s.id) \
               FROM inbox.subscription AS s JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) s.tableoid \
              WHERE ",
            $condition
        )
    };
}

static BY_NAME: Statement =
    Statement::ordered(subscription!("s.name OPERATOR(pg_catalog.=) $1"), &[pg_sys::TEXTOID]);

static BY_ID: Statement =
    Statement::ordered(subscription!("s.id OPERATOR(pg_catalog.=) $1"), &[pg_sys::INT4OID]);

static PARTITIONS: Statement = Statement::ordered(
    c"SELECT p.number, p.topic, p.partition, p.first_position FROM inbox.partition AS p \
       WHERE p.source_id OPERATOR(pg_catalog.=) $1 ORDER BY p.number",
    &[pg_sys::INT4OID],
);

/// Watches the tables from which a [`Subscription`] is read. Triggers report each change of their rows.
pub static WATCHES: [Watch; READ.len()] = [const { Watch::over_table() }; READ.len()];

/// In the order of their watches.
const READ: [Member; 5] = [
    SUBSCRIPTION,
    member(c"subscription_grants"),
    member(c"partition"),
    member(c"segment"),
    member(c"projection"),
];

/// How many subscriptions a session remembers.
const REMEMBERED: usize = 8;

/// What this process has read, after this many changes.
struct Known {
    changes: u64,
    subscriptions: Vec<Rc<Subscription>>,
}

thread_local! {
    static KNOWN: RefCell<Known> = const { RefCell::new(Known { changes: 0, subscriptions: Vec::new() }) };
}

sql_function!(inbox_changed, pg_finfo_inbox_changed, changed);

/// Trigger after each statement that changes one of the tables: tells this session at once, and all others at commit.
fn changed(arguments: &Arguments) -> Option<pg_sys::Datum> {
    // SAFETY: the relation of a firing trigger is open.
    unsafe { pg_sys::CacheInvalidateRelcache(firing(arguments).tg_relation) };
    Some(pg_sys::Datum::from(0_usize))
}

/// A partition from which a subscription has events.
#[derive(Debug)]
pub struct Partition {
    /// Its number.
    number: i32,
    /// The topic.
    pub topic: KeptText,
    /// The partition of the topic.
    pub partition: i32,
    /// Events up to this position were skipped by a seek.
    pub first_position: i64,
}

/// A subscription.
#[derive(Debug)]
pub struct Subscription {
    /// Its id.
    pub id: i32,
    /// Its name.
    pub name: String,
    /// Which events keep their order.
    pub ordering: Ordering,
    /// How many attempts an event has.
    pub max_attempts: u32,
    /// It receives events after this position.
    pub first_position: i64,
    /// Whether it receives the log of another one. What that one has skipped by a seek, it receives.
    pub is_replay: bool,
    /// Whether nothing is received at present.
    pub is_paused: bool,
    /// The log that it receives.
    pub log: Log,
    /// All new events up to this position were skipped by a seek.
    pub skipped_to: i64,
    /// In ascending numbers.
    partitions: Vec<Partition>,
    /// Its events go to a table: no session receives them.
    is_projection: bool,
    /// A role that may receive, and others, each with its members.
    owner_of_tables: pg_sys::Oid,
    receivers: Vec<pg_sys::Oid>,
}

impl Subscription {
    /// The subscription of this name, from which `caller` must have the right to receive: an administrator, a member of the
    /// owner, or of a role to which it was granted. Acting as the owner of the tables.
    #[must_use]
    pub fn named(name: &str, caller: pg_sys::Oid) -> Rc<Self> {
        let found = known(|known| known.name == name, || read(&BY_NAME, name.into_datum()));
        let found = found.unwrap_or_else(|| unknown(name).raise());
        if !found.may_be_received_by(caller) {
            refused(name, caller).raise();
        }
        if found.is_projection {
            of_projection(name).raise();
        }
        found
    }

    /// The subscription with this id, if there still is one. Events that a snapshot from before the call sees are from
    /// partitions that it knows.
    #[must_use]
    pub fn with_id(id: i32) -> Option<Rc<Self>> {
        known(|known| known.id == id, || read(&BY_ID, id.into_datum()))
    }

    /// The partition with this number.
    #[must_use]
    pub fn partition(&self, number: i32) -> Option<&Partition> {
        let place = self.partitions.binary_search_by_key(&number, |partition| partition.number);
        self.partitions.get(place.ok()?)
    }

    fn may_be_received_by(&self, caller: pg_sys::Oid) -> bool {
        let mut roles = std::iter::once(&self.owner_of_tables).chain(&self.receivers);
        // SAFETY: in a transaction; looks into the catalogs. A dropped role has no members.
        roles.any(|role| unsafe { pg_sys::has_privs_of_role(caller, *role) })
    }

    fn from_row(row: &Row) -> Self {
        let (id, source) = (row.get(1).unwrap_or(0), row.get(2).unwrap_or(0));
        let numbers: Vec<i16> = row.get(9).unwrap_or_default();
        let first_positions: Vec<i64> = row.get(10).unwrap_or_default();
        let partitions = PARTITIONS.execute(&[source.into_datum()], Access::Read, 0);
        let partitions: Vec<Partition> = partitions
            .iter()
            .map(|row| Partition {
                number: row.get(1).unwrap_or(0),
                topic: KeptText::of(row.get(2).unwrap_or_default()),
                partition: row.get(3).unwrap_or(0),
                first_position: row.get(4).unwrap_or(0),
            })
            .collect();
        let is_replay = id != source;
        let skipped = partitions.iter().map(|partition| partition.first_position).min();
        Self {
            id,
            name: row.get(3).unwrap_or_default(),
            ordering: row.get::<&str>(4).and_then(|text| text.parse().ok()).unwrap_or(Ordering::Partition),
            max_attempts: row.get::<i32>(5).and_then(|most| u32::try_from(most).ok()).unwrap_or(1),
            first_position: row.get(6).unwrap_or(0),
            is_replay,
            is_paused: row.get(8) == Some(true),
            log: Log::new(source, row.get(7).unwrap_or(i64::MAX), &numbers, &first_positions),
            skipped_to: skipped.filter(|_| !is_replay).unwrap_or(i64::MIN),
            partitions,
            owner_of_tables: row.get(11).unwrap_or(pg_sys::InvalidOid),
            receivers: row.get(12).unwrap_or_default(),
            is_projection: row.get(13) == Some(true),
        }
    }
}

/// Reads a subscription as it is now.
fn read(statement: &Statement, argument: Option<pg_sys::Datum>) -> Option<Subscription> {
    let _snapshot = Snapshot::take_latest();
    let rows = statement.execute(&[argument], Access::Read, 1);
    rows.iter().next().as_ref().map(Subscription::from_row)
}

/// A subscription that was read since the last change, or else is read now.
fn known(
    is_wanted: impl Fn(&Subscription) -> bool,
    read: impl FnOnce() -> Option<Subscription>,
) -> Option<Rc<Subscription>> {
    let changes = || WATCHES.iter().map(Watch::changes).sum();
    // Postgres learns of changes when it takes a lock. Here the lock of a lane may just have been granted by one who has
    // changed something, or the transaction may hold all other locks already.
    // SAFETY: in a transaction, at a place where locks can be taken.
    unsafe { pg_sys::AcceptInvalidationMessages() };
    let before: u64 = changes();
    let found = KNOWN.with_borrow(|known| {
        let mut all = known.subscriptions.iter().filter(|_| known.changes == before);
        all.find(|known| is_wanted(known)).cloned()
    });
    if found.is_some() {
        return found;
    }
    READ.iter().zip(&WATCHES).for_each(|(table, watch)| watch.set_table(table.existing()));
    let found = Rc::new(read()?);
    KNOWN.with_borrow_mut(|known| {
        if known.changes != before || known.subscriptions.len() >= REMEMBERED {
            known.subscriptions.clear();
        }
        known.changes = before;
        known.subscriptions.push(Rc::clone(&found));
    });
    Some(found)
}

/// The beginning of a name for a message.
fn shown(name: &str) -> String {
    name.chars().take(100).collect()
}

fn unknown(name: &str) -> UserError {
    UserError {
        code: PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
        message: format!("subscription \"{}\" does not exist", shown(name)),
        detail: "No subscription of this database has this name.".into(),
        hint: "SELECT name FROM inbox.subscriptions; shows them. inbox.subscribe() creates one.".into(),
    }
}

fn of_projection(name: &str) -> UserError {
    UserError {
        code: PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
        message: format!("\"{}\" is a projection", shown(name)),
        detail: "Its events go to its table. Whoever received one would take it from there.".into(),
        hint: "Subscribe to the topic by another name, to receive its events as well.".into(),
    }
}

fn refused(name: &str, caller: pg_sys::Oid) -> UserError {
    UserError {
        code: PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        message: format!("permission denied for subscription \"{}\"", shown(name)),
        detail: format!(
            "Role \"{}\" neither has the rights of its owner nor was the subscription granted to it.",
            backend::role_name(caller)
        ),
        hint: "Its owner can grant it with inbox.grant_subscription().".into(),
    }
}
