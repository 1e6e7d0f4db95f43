//! Owns the list of the server's databases, and the question whether workers may run in one.
//!
//! Runs in: the launcher, and client backends.

use pgrx::prelude::*;

use crate::pg::backend;
use crate::pg::compat::guarded;

/// All databases that may have workers. For a process without a database of its own; in a transaction.
#[must_use]
pub fn connectable() -> Vec<pg_sys::Oid> {
    let mut found = Vec::new();
    // SAFETY: a catalog scan as Postgres' own launchers do it, closed before the end; each tuple is a row
    // of pg_database, valid until the next is fetched.
    unsafe {
        let relation = pg_sys::table_open(pg_sys::DatabaseRelationId, pg_sys::AccessShareLock as i32);
        let scan = pg_sys::table_beginscan_catalog(relation, 0, std::ptr::null_mut());
        loop {
            let tuple = pg_sys::heap_getnext(scan, pg_sys::ScanDirection::ForwardScanDirection);
            if tuple.is_null() {
                break;
            }
            let row = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_database>();
            if is_open(row) {
                found.push(row.oid);
            }
        }
        if let Some(end) = (*(*relation).rd_tableam).scan_end {
            guarded(|| end(scan));
        }
        pg_sys::table_close(relation, pg_sys::AccessShareLock as i32);
    }
    found
}

/// Whether workers may run in a database: it exists, takes connections and is not a template. A session in a
/// template would keep others from copying it. In a transaction.
///
/// Read from the table, not from the catalog cache: a backend that changes a database wakes the launcher at commit, a moment
/// before the invalidation reaches the caches of others. As where Postgres looks for the database of a session, the index serves
/// if this process found the relation cache's file at its start, which the first session after the start of the server writes.
#[must_use]
pub fn admits_workers(database: pg_sys::Oid) -> bool {
    // SAFETY: a scan of a shared catalog, closed before the end; a tuple is a row of pg_database, valid until the scan goes
    // on.
    unsafe {
        let mut key = std::mem::zeroed::<pg_sys::ScanKeyData>();
        pg_sys::ScanKeyInit(
            &raw mut key,
            pg_sys::Anum_pg_database_oid as pg_sys::AttrNumber,
            pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber,
            pg_sys::Oid::from(pg_sys::F_OIDEQ),
            pg_sys::Datum::from(database),
        );
        let relation = pg_sys::table_open(pg_sys::DatabaseRelationId, pg_sys::AccessShareLock as i32);
        let scan = pg_sys::systable_beginscan(
            relation,
            pg_sys::Oid::from(pg_sys::DatabaseOidIndexId),
            pg_sys::criticalSharedRelcachesBuilt,
            std::ptr::null_mut(),
            1,
            &raw mut key,
        );
        let tuple = pg_sys::systable_getnext(scan);
        let admits =
            !tuple.is_null() && is_open(&*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_database>());
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(relation, pg_sys::AccessShareLock as i32);
        admits
    }
}

fn is_open(row: &pg_sys::FormData_pg_database) -> bool {
    row.datallowconn && !row.datistemplate
}

/// What a database is called, for messages. In a transaction.
#[must_use]
pub fn name(database: pg_sys::Oid) -> String {
    look_up(database, |row| pgrx::name_data_to_str(&row.datname).to_string()).unwrap_or_default()
}

/// Whether the current user may act as the owner of a database. In a transaction.
#[must_use]
pub fn is_mine(database: pg_sys::Oid) -> bool {
    // SAFETY: look-ups in catalogs.
    look_up(database, |row| unsafe { pg_sys::has_privs_of_role(backend::user(), row.datdba) })
        .unwrap_or(false)
}

fn look_up<R>(database: pg_sys::Oid, read: impl FnOnce(&pg_sys::FormData_pg_database) -> R) -> Option<R> {
    // SAFETY: a look-up whose tuple is a row of pg_database, read before it is released.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(
            pg_sys::SysCacheIdentifier::DATABASEOID as i32,
            pg_sys::Datum::from(database),
        );
        if tuple.is_null() {
            return None;
        }
        let result = read(&*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_database>());
        pg_sys::ReleaseSysCache(tuple);
        Some(result)
    }
}
