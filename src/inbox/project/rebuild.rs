//! Owns what a rebuild does besides: it makes a table like that of its projection, and once it has filled it, gives that one
//! the same rows, and takes the projection's place.
//!
//! Runs in: the process of a rebuild, in a transaction, as the owner of the table.

use std::ffi::CString;

use event_outbox_policy::inbox::lanes::LANES;
use pgrx::prelude::*;

use super::crash;
use super::definition::Definition;
use super::target::{Target, name_of};
use super::task::Task;
use crate::inbox::table::{as_owner, lane_lock, rebuilds};
use crate::pg::relation::{self, OpenRelation};
use crate::pg::snapshot::Snapshot;
use crate::pg::spi::{self, Access, Statement};
use crate::pg::user_error::UserError;

/// After this many crashes of the server a rebuild leaves the table as it is. One can be anybody's fault.
const MOST_CRASHES: i32 = 3;

/// Whoever ends the rebuild meanwhile waits, and then finds the table.
static LOCK: Statement = Statement::new(
    c"SELECT FROM inbox.projection AS p WHERE p.subscription_id OPERATOR(pg_catalog.=) $1 FOR UPDATE",
    &[pg_sys::INT4OID],
);

static SET_TABLE: Statement = Statement::new(
    c"UPDATE inbox.projection AS p SET \"table\" = $2::pg_catalog.regclass, \
             table_name = $2::pg_catalog.regclass::pg_catalog.text \
       WHERE p.subscription_id OPERATOR(pg_catalog.=) $1",
    &[pg_sys::INT4OID, pg_sys::OIDOID],
);

/// Whether the rebuild has applied all that the projection has. Where that one has stopped, Kafka no longer has the records, or
/// others at their offsets.
static IS_LEVEL: Statement = Statement::new(
    c"SELECT NOT EXISTS (SELECT FROM inbox.projected_offset AS o \
              LEFT JOIN inbox.projected_offset AS n \
                ON n.subscription_id OPERATOR(pg_catalog.=) $1 AND n.partition OPERATOR(pg_catalog.=) o.partition \
             WHERE o.subscription_id OPERATOR(pg_catalog.=) $2 \
               AND (n.next_offset OPERATOR(pg_catalog.>=) o.next_offset) IS NOT TRUE \
               AND NOT EXISTS (SELECT FROM inbox.partition AS q \
                                WHERE q.source_id OPERATOR(pg_catalog.=) $2 AND q.number OPERATOR(pg_catalog.=) o.number \
                                  AND q.state OPERATOR(pg_catalog.=) 'stopped')) \
        AND NOT EXISTS (SELECT FROM inbox.projected_offset AS o \
                          JOIN inbox.subscription AS s ON s.id OPERATOR(pg_catalog.=) o.subscription_id \
                         WHERE o.subscription_id OPERATOR(pg_catalog.=) $2 AND s.is_local \
                           AND NOT inbox.has_applied_events($1, o.next_offset))",
    &[pg_sys::INT4OID, pg_sys::INT4OID],
);

static FINISH: Statement = Statement::new(c"SELECT inbox.finish_rebuild($1)", &[pg_sys::INT4OID]);

/// What became of an attempt to take the projection's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// The projection is further: later.
    NotYet,
    /// It is done. The process has a projection of another name now.
    Done,
}

/// Makes the table of a rebuild, beside the one that it is for. `false` if there is nothing that it is for any more.
#[must_use]
pub fn make_table(task: &Task, definition: &Definition) -> bool {
    let Some((_, original)) = definition.rebuilds else { return false };
    let Some(_open) = OpenRelation::try_open(original, relation::READ) else { return false };
    let id = task.subscription.into_datum();
    if as_owner(|| LOCK.execute(&[id], Access::Write, 1).is_empty()) {
        return false;
    }
    let made = create_like(task, original);
    as_owner(|| SET_TABLE.execute(&[id, made.into_datum()], Access::Write, 0));
    true
}

fn create_like(task: &Task, original: pg_sys::Oid) -> Option<pg_sys::Oid> {
    // SAFETY: in a transaction, with a lock of the table; the results are C strings in its memory.
    let (schema, name) = unsafe {
        let text =
            |text: *const std::ffi::c_char| std::ffi::CStr::from_ptr(text).to_string_lossy().into_owned();
        (
            text(pg_sys::quote_identifier(pg_sys::get_namespace_name(pg_sys::get_rel_namespace(original)))),
            text(pg_sys::get_rel_name(original)),
        )
    };
    let begin: String = name.chars().take(30).collect();
    let shadow = format!("{begin}_rebuild_{}", task.subscription).replace('"', "\"\"");
    let shadow = format!("{schema}.\"{shadow}\"");
    let create = CString::new(format!("CREATE TABLE {shadow} (LIKE {} INCLUDING ALL)", name_of(original)));
    let find = format!("SELECT '{}'::pg_catalog.regclass::pg_catalog.oid", shadow.replace('\'', "''"));
    let (create, find) = (create.ok()?, CString::new(find).ok()?);
    spi::connected(|| spi::run(&create));
    spi::connected(|| {
        let rows = spi::query(&find, Access::Write);
        rows.iter().next().and_then(|row| row.get::<pg_sys::Oid>(1))
    })
}

/// Gives the table of the projection the rows of the rebuild's, if that has applied as much, and takes its place.
#[must_use]
pub fn take_place(task: &Task, target: &Target, rebuilt: i32, table: pg_sys::Oid) -> Attempt {
    let Some(_open) = OpenRelation::try_open(table, relation::WRITE) else { return Attempt::NotYet };
    if crash::is_being_counted(task.subscription) {
        return Attempt::NotYet;
    }
    let crashes = as_owner(|| rebuilds::crashes(task.subscription));
    if crashes >= MOST_CRASHES {
        crashing(task, &name_of(table), crashes).raise();
    }
    // The projection applies nothing meanwhile.
    (0..LANES).for_each(|lane| lane_lock::wait(rebuilt, lane));
    let ids = [task.subscription.into_datum(), rebuilt.into_datum()];
    let is_level = as_owner(|| {
        // What this transaction has acknowledged counts, too.
        IS_LEVEL.execute(&ids, Access::Write, 1).iter().next().and_then(|row| row.get::<bool>(1))
            == Some(true)
    });
    if !is_level {
        return Attempt::NotYet;
    }
    let _snapshot = Snapshot::take_latest();
    crash::write_down_copy(task.subscription);
    spi::connected(|| {
        target.copy_to(table);
        if let Ok(drop) = CString::new(format!("DROP TABLE {}", target.name())) {
            spi::run(&drop);
        }
    });
    as_owner(|| FINISH.execute(&[task.subscription.into_datum()], Access::Write, 0));
    Attempt::Done
}

fn crashing(task: &Task, table: &str, crashes: i32) -> UserError {
    UserError {
        code: PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        message: format!(
            "the server has crashed {crashes} times while the rebuild wrote rows into table {table}"
        ),
        detail: "The table is as it was. It is not written to again, since the server would crash again."
            .into(),
        hint: format!(
            "See the server's log, and the triggers of the table. SELECT inbox.unproject('{}'); ends the rebuild.",
            task.name.replace('\'', "''")
        ),
    }
}
