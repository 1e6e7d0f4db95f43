//! The cluster's databases.

use pgrx::prelude::*;

use super::compat::guarded;

/// All databases that a relay could connect to. For a process without a database of its own; in a
/// transaction.
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
            if row.datallowconn && !row.datistemplate {
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

/// Whether a database exists. In a transaction.
#[must_use]
pub fn exists(database: pg_sys::Oid) -> bool {
    owner(database).is_some()
}

/// Whether the current user may act as the owner of a database. In a transaction.
#[must_use]
pub fn is_mine(database: pg_sys::Oid) -> bool {
    // SAFETY: look-ups in catalogs.
    owner(database).is_some_and(|owner| unsafe { pg_sys::has_privs_of_role(pg_sys::GetUserId(), owner) })
}

fn owner(database: pg_sys::Oid) -> Option<pg_sys::Oid> {
    // SAFETY: a look-up whose tuple is a row of pg_database, read before it is released.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(
            pg_sys::SysCacheIdentifier::DATABASEOID as i32,
            pg_sys::Datum::from(database),
        );
        if tuple.is_null() {
            return None;
        }
        let owner = (*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_database>()).datdba;
        pg_sys::ReleaseSysCache(tuple);
        Some(owner)
    }
}
