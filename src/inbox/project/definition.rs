//! Owns what is read of the definitions of projections.
//!
//! Runs in: the ingest worker, and the processes of projections, in a transaction.

use event_outbox_policy::inbox::projection::mapping::Format;
use event_outbox_policy::inbox::projection::source::Source;
use pgrx::prelude::*;

use super::task::Task;
use crate::inbox::handlers::supervisor::Wanted;
use crate::inbox::table::as_owner;
use crate::pg::backend;
use crate::pg::spi::{Access, Row, Statement};

/// The projections that are not paused and whose table exists. A rebuild has none at first, and the owner of the table that it is
/// for.
static WANTED: Statement = Statement::new(
    c"SELECT s.id, s.name, c.relowner \
        FROM inbox.projection AS p JOIN inbox.subscription AS s ON s.id OPERATOR(pg_catalog.=) p.subscription_id \
             LEFT JOIN inbox.projection AS o ON o.subscription_id OPERATOR(pg_catalog.=) p.rebuild_of \
             JOIN pg_catalog.pg_class AS c \
               ON c.oid OPERATOR(pg_catalog.=) coalesce(p.\"table\", o.\"table\")::pg_catalog.oid \
       WHERE s.paused_at IS NULL",
    &[],
);

static DEFINITION: Statement = Statement::new(
    c"SELECT p.\"table\"::pg_catalog.oid, p.format, \
             ARRAY(SELECT k.key FROM pg_catalog.jsonb_each_text(p.key) AS k ORDER BY k.key), \
             ARRAY(SELECT k.value FROM pg_catalog.jsonb_each_text(p.key) AS k ORDER BY k.key), \
             CASE WHEN p.columns IS NOT NULL THEN \
                 ARRAY(SELECT k.key FROM pg_catalog.jsonb_each_text(p.columns) AS k ORDER BY k.key) END, \
             ARRAY(SELECT k.value FROM pg_catalog.jsonb_each_text(p.columns) AS k ORDER BY k.key), \
             p.ready_at IS NOT NULL, p.failing_since IS NOT NULL, p.rebuild_of, \
             (SELECT pg_catalog.count(*) FROM inbox.partition AS q \
               WHERE q.source_id OPERATOR(pg_catalog.=) p.subscription_id), \
             o.\"table\"::pg_catalog.oid, p.table_name, p.filenode \
        FROM inbox.projection AS p \
             LEFT JOIN inbox.projection AS o ON o.subscription_id OPERATOR(pg_catalog.=) p.rebuild_of \
       WHERE p.subscription_id OPERATOR(pg_catalog.=) $1",
    &[pg_sys::INT4OID],
);

/// Forgets tables that are gone: their numbers can be those of other tables one day, and in a dump they would be. That of a rebuild
/// is told by its number that it is gone, and must not be made anew.
static DROPPED: Statement = Statement::new(
    c"SELECT p.subscription_id FROM inbox.projection AS p \
       WHERE p.\"table\" IS NOT NULL AND p.rebuild_of IS NULL \
         AND NOT EXISTS (SELECT FROM pg_catalog.pg_class AS c WHERE c.oid OPERATOR(pg_catalog.=) p.\"table\"::pg_catalog.oid)",
    &[],
);

static FORGET_TABLE: Statement = Statement::new(
    c"UPDATE inbox.projection AS p SET \"table\" = NULL WHERE p.subscription_id OPERATOR(pg_catalog.=) $1",
    &[pg_sys::INT4OID],
);

/// The processes that are wanted.
#[must_use]
pub fn wanted() -> Vec<Wanted<Task>> {
    let task = |row: Row| {
        let task = Task {
            database: backend::database(),
            role: row.get(3)?,
            subscription: row.get(1)?,
            name: row.get(2)?,
        };
        Some(Wanted { task, workers: 1 })
    };
    as_owner(|| {
        let dropped: Vec<i32> =
            DROPPED.execute(&[], Access::Read, 0).iter().filter_map(|row| row.get(1)).collect();
        for subscription in dropped {
            FORGET_TABLE.execute(&[subscription.into_datum()], Access::Write, 0);
        }
    });
    as_owner(|| WANTED.execute(&[], Access::Read, 0).iter().filter_map(task).collect())
}

/// A column and where its value comes from.
pub type Sourced = (String, Source);

/// A projection as it is defined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// Its table; `None` for a rebuild that has none yet.
    pub table: Option<pg_sys::Oid>,
    /// The table's name, as it is shown when it is gone.
    pub table_name: Option<String>,
    /// The table's file when it was last opened.
    pub filenode: Option<pg_sys::Oid>,
    /// What a record's value is.
    pub format: Format,
    /// The columns of the key.
    pub keys: Vec<Sourced>,
    /// The others; `None` for all, by their names.
    pub columns: Option<Vec<Sourced>>,
    /// Whether the topic has one partition.
    pub has_one_partition: bool,
    /// For a rebuild: the projection that it takes the place of, and its table.
    pub rebuilds: Option<(i32, pg_sys::Oid)>,
    /// Whether the table has had all records that there were when it was created.
    pub is_ready: bool,
    /// Whether an error is shown that keeps it from its work.
    pub is_failing: bool,
}

impl Definition {
    /// The definition of a subscription's projection; `None` if it is none any more. As the owner of the tables.
    #[must_use]
    pub fn of(subscription: i32) -> Option<Self> {
        let rows = DEFINITION.execute(&[subscription.into_datum()], Access::Read, 1);
        let row = rows.iter().next()?;
        let sourced = |names: i32, sources: i32| {
            let names: Vec<String> = row.get(names)?;
            let sources: Vec<String> = row.get(sources)?;
            let parsed = sources.iter().map(|source| Source::parse(source).ok());
            names
                .into_iter()
                .zip(parsed)
                .map(|(name, source)| Some((name, source?)))
                .collect::<Option<Vec<_>>>()
        };
        let columns = if row.get::<Vec<String>>(5).is_some() { Some(sourced(5, 6)?) } else { None };
        Some(Self {
            table: row.get(1),
            table_name: row.get(12),
            filenode: row.get(13),
            format: Format::named(row.get(2)?)?,
            keys: sourced(3, 4)?,
            columns,
            is_ready: row.get(7)?,
            is_failing: row.get(8)?,
            rebuilds: row.get(9).zip(row.get(11)),
            has_one_partition: row.get::<i64>(10)? == 1,
        })
    }
}
