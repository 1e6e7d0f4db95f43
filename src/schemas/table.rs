//! Owns the names of the tables of schemas, and the notice of their changes.
//!
//! Runs in: client backends.

use pgrx::prelude::*;

use crate::pg::catalog::Member;
use crate::pg::function::{Arguments, sql_function};
use crate::pg::watch::Watch;

/// Which schema the events of a topic have. A change of any of the tables counts as one of this.
pub const BINDING: Member = Member::new(c"outbox", c"schema_binding");

/// Watches the tables, by way of [`BINDING`].
pub static WATCH: Watch = Watch::over_table();

sql_function!(outbox_schemas_changed, pg_finfo_outbox_schemas_changed, schemas_changed);

/// Trigger after each statement that changes one of the tables: tells this session at once, and all others at commit.
fn schemas_changed(_arguments: &Arguments) -> Option<pg_sys::Datum> {
    // SAFETY: in a transaction; the table exists.
    unsafe { pg_sys::CacheInvalidateRelcacheByRelid(BINDING.existing()) };
    Some(pg_sys::Datum::from(0_usize))
}
