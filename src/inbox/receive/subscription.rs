//! The subscription from which a session receives, and whether it may.

use event_outbox_policy::inbox::lanes::Ordering;
use pgrx::prelude::*;

use super::log::Log;
use crate::pg::backend;
use crate::pg::snapshot::Snapshot;
use crate::pg::spi::{Access, Row, Statement, text};
use crate::pg::user_error::UserError;

macro_rules! columns {
    () => {
        "SELECT s.id, s.source_id, s.name, s.ordering, s.max_attempts, s.first_position, s.last_position, \
                s.paused_at IS NOT NULL, \
                (SELECT pg_catalog.array_agg(g.number ORDER BY g.first_position) FROM inbox.segment AS g), \
                (SELECT pg_catalog.array_agg(g.first_position ORDER BY g.first_position) FROM inbox.segment AS g)"
    };
}

/// By name, with whether the role `$2` may receive from it: an administrator, a member of the owner, or of a role to which it
/// was granted.
static BY_NAME: Statement = Statement::new(
    text!(
        columns!(),
        ", CASE WHEN pg_catalog.pg_has_role($2, c.relowner, 'USAGE') THEN true \
                WHEN pg_catalog.pg_has_role($2, s.owner::pg_catalog.oid, 'USAGE') \
                     AND inbox.is_marked(s.owner, 'inbox.subscription_grants'::pg_catalog.regclass) THEN true \
                ELSE EXISTS (SELECT FROM inbox.subscription_grants AS g \
                              WHERE g.subscription_id OPERATOR(pg_catalog.=) s.id \
                                AND pg_catalog.pg_has_role($2, g.role::pg_catalog.oid, 'USAGE') \
                                AND inbox.is_marked(g.role, 'inbox.subscription_grants'::pg_catalog.regclass)) END \
           FROM inbox.subscription AS s JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) s.tableoid \
          WHERE s.name OPERATOR(pg_catalog.=) $1",
    ),
    &[pg_sys::TEXTOID, pg_sys::OIDOID],
);

static BY_ID: Statement = Statement::new(
    text!(columns!(), " FROM inbox.subscription AS s WHERE s.id OPERATOR(pg_catalog.=) $1"),
    &[pg_sys::INT4OID],
);

/// A subscription.
#[derive(Debug, Clone)]
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
}

impl Subscription {
    /// The subscription of this name, from which `caller` must have the right to receive. Acting as the owner of the tables.
    #[must_use]
    pub fn named(name: &str, caller: pg_sys::Oid) -> Self {
        let _snapshot = Snapshot::take_latest();
        let rows = BY_NAME.execute(&[name.into_datum(), caller.into_datum()], Access::Read, 1);
        let Some(row) = rows.iter().next() else { unknown(name).raise() };
        if row.get(11) != Some(true) {
            refused(name, caller).raise();
        }
        Self::from(&row)
    }

    /// The subscription with this id, if there still is one.
    #[must_use]
    pub fn with_id(id: i32) -> Option<Self> {
        let _snapshot = Snapshot::take_latest();
        BY_ID.execute(&[id.into_datum()], Access::Read, 1).iter().next().as_ref().map(Self::from)
    }
}

impl From<&Row> for Subscription {
    fn from(row: &Row) -> Self {
        let (id, source) = (row.get(1).unwrap_or(0), row.get(2).unwrap_or(0));
        let numbers: Vec<i16> = row.get(9).unwrap_or_default();
        let first_positions: Vec<i64> = row.get(10).unwrap_or_default();
        Self {
            id,
            name: row.get(3).unwrap_or_default(),
            ordering: row.get::<&str>(4).and_then(|text| text.parse().ok()).unwrap_or(Ordering::Partition),
            max_attempts: row.get::<i32>(5).and_then(|most| u32::try_from(most).ok()).unwrap_or(1),
            first_position: row.get(6).unwrap_or(0),
            is_replay: id != source,
            is_paused: row.get(8) == Some(true),
            log: Log::new(source, row.get(7).unwrap_or(i64::MAX), &numbers, &first_positions),
        }
    }
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
