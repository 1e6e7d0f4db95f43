//! Owns what a projection's process notes of itself: whether it is ready, and what keeps it from its work.
//!
//! Runs in: the process of a projection, in a transaction, as the owner of the tables.

use pgrx::prelude::*;

use crate::pg::spi::{Access, Statement};

static READY: Statement = Statement::new(
    c"UPDATE inbox.projection AS p SET ready_at = pg_catalog.now() \
       WHERE p.subscription_id OPERATOR(pg_catalog.=) $1 AND p.ready_at IS NULL \
         AND inbox.has_reached($1, p.ready_offsets) RETURNING true",
    &[pg_sys::INT4OID],
);

/// The event store's events come by themselves, and of a partition that has stopped nothing comes.
static IS_STORED: Statement = Statement::new(
    c"SELECT s.is_local OR NOT EXISTS ( \
               SELECT FROM pg_catalog.unnest(p.ready_offsets) WITH ORDINALITY AS e(\"end\", number) \
                      LEFT JOIN inbox.next_offset AS n \
                        ON n.source_id OPERATOR(pg_catalog.=) s.id AND n.number OPERATOR(pg_catalog.=) (e.number OPERATOR(pg_catalog.-) 1) \
                      LEFT JOIN inbox.partition AS q \
                        ON q.source_id OPERATOR(pg_catalog.=) s.id AND q.number OPERATOR(pg_catalog.=) (e.number OPERATOR(pg_catalog.-) 1) \
                WHERE e.\"end\" OPERATOR(pg_catalog.>) 0 AND (n.next_offset OPERATOR(pg_catalog.>=) e.\"end\") IS NOT TRUE \
                  AND (q.state OPERATOR(pg_catalog.=) 'stopped') IS NOT TRUE) \
        FROM inbox.projection AS p JOIN inbox.subscription AS s ON s.id OPERATOR(pg_catalog.=) p.subscription_id \
       WHERE s.id OPERATOR(pg_catalog.=) $1",
    &[pg_sys::INT4OID],
);

static FAILING: Statement = Statement::new(
    c"UPDATE inbox.projection AS p \
         SET failing_since = coalesce(p.failing_since, pg_catalog.now()), last_error = $2, \
             last_error_at = CASE WHEN p.failing_since IS NULL OR p.last_error IS DISTINCT FROM $2 \
                                  THEN pg_catalog.now() ELSE p.last_error_at END \
       WHERE p.subscription_id OPERATOR(pg_catalog.=) $1 \
         AND (p.failing_since IS NULL OR p.last_error IS DISTINCT FROM $2)",
    &[pg_sys::INT4OID, pg_sys::TEXTOID],
);

static WELL: Statement = Statement::new(
    c"UPDATE inbox.projection AS p SET failing_since = NULL \
       WHERE p.subscription_id OPERATOR(pg_catalog.=) $1 AND p.failing_since IS NOT NULL",
    &[pg_sys::INT4OID],
);

static TABLE_NAME: Statement = Statement::new(
    c"UPDATE inbox.projection AS p SET table_name = $2 WHERE p.subscription_id OPERATOR(pg_catalog.=) $1",
    &[pg_sys::INT4OID, pg_sys::TEXTOID],
);

/// Nothing is missing in a table that never had rows.
static FILENODE: Statement = Statement::new(
    c"UPDATE inbox.projection AS p \
         SET filenode = $2, \
             truncated_at = CASE WHEN $3 AND EXISTS (SELECT FROM inbox.lane AS l WHERE l.subscription_id OPERATOR(pg_catalog.=) $1) \
                                 THEN pg_catalog.now() ELSE p.truncated_at END \
       WHERE p.subscription_id OPERATOR(pg_catalog.=) $1 RETURNING p.truncated_at OPERATOR(pg_catalog.=) pg_catalog.now()",
    &[pg_sys::INT4OID, pg_sys::OIDOID, pg_sys::BOOLOID],
);

/// Notes the file of the table, and whether that is empty although it was another one before. Returns whether rows are missing.
#[must_use]
pub fn note_filenode(subscription: i32, filenode: pg_sys::Oid, is_emptied: bool) -> bool {
    let arguments = [subscription.into_datum(), filenode.into_datum(), is_emptied.into_datum()];
    let rows = FILENODE.execute(&arguments, Access::Write, 0);
    rows.iter().next().and_then(|row| row.get::<bool>(1)) == Some(true)
}

/// Notes the name of the table.
pub fn note_table_name(subscription: i32, name: &str) {
    TABLE_NAME.execute(&[subscription.into_datum(), name.into_datum()], Access::Write, 0);
}

/// Notes that the projection is ready, if it is since now. Returns whether it is.
#[must_use]
pub fn note_ready(subscription: i32) -> bool {
    !READY.execute(&[subscription.into_datum()], Access::Write, 0).is_empty()
}

/// Whether all is stored that has to be applied before it is ready.
#[must_use]
pub fn is_stored(subscription: i32) -> bool {
    let rows = IS_STORED.execute(&[subscription.into_datum()], Access::Read, 1);
    rows.iter().next().and_then(|row| row.get::<bool>(1)) != Some(false)
}

/// Notes an error that keeps the projection from its work.
pub fn note_error(subscription: i32, error: &str) {
    FAILING.execute(&[subscription.into_datum(), error.into_datum()], Access::Write, 0);
}

/// Notes that nothing keeps it from its work any more.
pub fn note_recovery(subscription: i32) {
    WELL.execute(&[subscription.into_datum()], Access::Write, 0);
}
