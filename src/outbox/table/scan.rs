//! Owns the scan of the primary key of `outbox.events`.
//!
//! Runs in: the relay's main thread.

use std::ffi::c_int;

use pgrx::prelude::*;

use crate::pg::compat;
use crate::pg::relation::{self, OpenRelation};

/// A scan of the primary key in ascending order, from an id on.
pub struct IdScan {
    /// Open as long as the scan.
    _index: OpenRelation,
    scan: pg_sys::IndexScanDesc,
}

/// In ascending order.
const FORWARD: pg_sys::ScanDirection::Type = pg_sys::ScanDirection::ForwardScanDirection;

impl IdScan {
    /// Begins with the first id above `after`.
    #[must_use]
    pub fn begin(table: &OpenRelation, after: i64) -> Self {
        const FIRST_COLUMN: pg_sys::AttrNumber = 1;
        // SAFETY: in a transaction with an active snapshot; the relation is open. The index is on a
        // bigint, which the function compares; the key is copied.
        unsafe {
            let primary_key = compat::primary_key_index(table.raw());
            if primary_key == pg_sys::InvalidOid {
                error!("outbox.events has no primary key");
            }
            let index = OpenRelation::open(primary_key, relation::READ);
            let scan = compat::begin_index_scan(table.raw(), index.raw(), pg_sys::GetActiveSnapshot(), 1);
            let mut key = pg_sys::ScanKeyData::default();
            pg_sys::ScanKeyInit(
                &mut key,
                FIRST_COLUMN,
                pg_sys::BTGreaterStrategyNumber as pg_sys::StrategyNumber,
                pg_sys::F_INT8GT.into(),
                pg_sys::Datum::from(after),
            );
            pg_sys::index_rescan(scan, &mut key, 1, std::ptr::null_mut(), 0);
            Self { _index: index, scan }
        }
    }

    /// Puts the next row into the slot and deforms its first columns. Returns `false` at the end.
    pub(super) fn next(&self, slot: *mut pg_sys::TupleTableSlot, columns: c_int) -> bool {
        // SAFETY: the scan is open, and the slot is made for its table.
        unsafe {
            compat::guarded(|| {
                let found = compat::raw::index_getnext_slot(self.scan, FORWARD, slot);
                if found {
                    compat::raw::slot_getsomeattrs_int(slot, columns);
                }
                found
            })
        }
    }
}

impl Drop for IdScan {
    fn drop(&mut self) {
        // When an ERROR unwinds, the end of the transaction ends it.
        if !std::thread::panicking() {
            // SAFETY: pairs with `begin`.
            unsafe { pg_sys::index_endscan(self.scan) }
        }
    }
}
