//! Opens the tables that receivers read and write without the executor, while they are as the extension has made them.
//!
//! Runs in: whoever receives, and the ingest worker.

use std::cell::Cell;

use event_outbox_policy::inbox::retention::SEGMENTS;
use pgrx::prelude::*;

use super::{LOG, LOG_COLUMNS, member};
use crate::pg::bulk_insert::Column;
use crate::pg::catalog::Member;
use crate::pg::indexed::{Indexed, Layout, Wanted};
use crate::pg::relation::{self, OpenRelation};
use crate::pg::watch::Watch;

/// A table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// `inbox.lane`, by subscription, lane and number.
    Lane,
    /// `inbox.retry`, by subscription, lane and position.
    Retry,
    /// A segment of the log, by subscription, lane and position.
    Log(usize),
}

/// The number of tables.
const TABLES: usize = SEGMENTS + 2;

const LANE: Member = member(c"lane");
const RETRY: Member = member(c"retry");

const LANE_COLUMNS: [Column; 10] = [
    (c"subscription_id", pg_sys::INT4OID, false),
    (c"lane", pg_sys::INT2OID, false),
    (c"seq", pg_sys::INT8OID, false),
    (c"upto", pg_sys::INT8OID, false),
    (c"batch_limit", pg_sys::INT4OID, false),
    (c"lease", pg_sys::UUIDOID, true),
    (c"lease_upto", pg_sys::INT8OID, true),
    (c"lease_count", pg_sys::INT4OID, true),
    (c"lease_expires_at", pg_sys::TIMESTAMPTZOID, true),
    (c"suspect_upto", pg_sys::INT8OID, false),
];

const RETRY_COLUMNS: [Column; 17] = [
    (c"subscription_id", pg_sys::INT4OID, false),
    (c"position", pg_sys::INT8OID, false),
    (c"lane", pg_sys::INT2OID, false),
    (c"topic", pg_sys::TEXTOID, false),
    (c"partition", pg_sys::INT4OID, false),
    (c"offset", pg_sys::INT8OID, false),
    (c"produced_at", pg_sys::TIMESTAMPTZOID, true),
    (c"key", pg_sys::BYTEAOID, true),
    (c"value", pg_sys::BYTEAOID, true),
    (c"headers", pg_sys::BYTEAOID, true),
    (c"order_key", pg_sys::BYTEAOID, true),
    (c"attempts", pg_sys::INT4OID, false),
    (c"next_attempt_at", pg_sys::TIMESTAMPTZOID, true),
    (c"last_error", pg_sys::TEXTOID, true),
    (c"failed_at", pg_sys::TIMESTAMPTZOID, true),
    (c"is_suspect", pg_sys::BOOLOID, false),
    (c"skip_after", pg_sys::INT8OID, false),
];

static WANTED_LANE: Wanted = Wanted { columns: &LANE_COLUMNS, keys: &[1, 2, 3], is_only: true };
static WANTED_RETRY: Wanted = Wanted { columns: &RETRY_COLUMNS, keys: &[1, 3, 2], is_only: false };
static WANTED_LOG: Wanted = Wanted { columns: &LOG_COLUMNS, keys: &[1, 2, 3], is_only: false };

/// Watches the tables, in the order of their places.
pub static WATCHES: [Watch; TABLES] = [const { Watch::over_table() }; TABLES];

/// What this process knows of a table. `layout` is `None` if it is not as the extension has made it.
#[derive(Clone, Copy)]
struct Known {
    table: pg_sys::Oid,
    changes: u64,
    layout: Option<Layout>,
}

thread_local! {
    static KNOWN: [Cell<Option<Known>>; TABLES] = const { [const { Cell::new(None) }; TABLES] };
}

impl Table {
    fn place(self) -> usize {
        match self {
            Self::Lane => 0,
            Self::Retry => 1,
            Self::Log(segment) => 2 + segment,
        }
    }

    fn member(self) -> Member {
        match self {
            Self::Lane => LANE,
            Self::Retry => RETRY,
            Self::Log(segment) => LOG[segment],
        }
    }

    fn wanted(self) -> &'static Wanted {
        match self {
            Self::Lane => &WANTED_LANE,
            Self::Retry => &WANTED_RETRY,
            Self::Log(_) => &WANTED_LOG,
        }
    }

    /// Opens the table for reading. `None` if it must be read in SQL, because somebody has changed it.
    #[must_use]
    pub fn for_reading(self) -> Option<Indexed> {
        self.open(relation::READ)
    }

    /// Opens the table for inserting. `None` if rows must be inserted in SQL.
    #[must_use]
    pub fn for_inserting(self) -> Option<Indexed> {
        self.open(relation::WRITE)
    }

    fn open(self, lock: pg_sys::LOCKMODE) -> Option<Indexed> {
        let (place, watch) = (self.place(), &WATCHES[self.place()]);
        let before = KNOWN.with(|known| known[place].get());
        let before = before.filter(|known| known.changes == watch.changes());
        let id = before.map_or_else(|| self.member().existing(), |known| known.table);
        watch.set_table(id);
        // Whoever takes a lock learns of all changes that were made before it was granted.
        let table = OpenRelation::open(id, lock);
        let changes = watch.changes();
        let layout = match before {
            Some(known) if known.changes == changes => known.layout,
            _ => {
                let layout = Layout::find(&table, self.wanted());
                KNOWN.with(|known| known[place].set(Some(Known { table: id, changes, layout })));
                layout
            }
        };
        Some(layout?.open(table, lock))
    }
}
