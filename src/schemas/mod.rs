//! The schemas of events: what is registered, which topics are bound to it, and payloads in its encodings.
//!
//! The tables are in `sql/schemas/tables.sql`.
//!
//! Runs in: client backends, and workers that emit.

pub mod table;

use crate::pg::watch::Watch;

/// The watches over the tables of schemas.
pub fn watches() -> impl Iterator<Item = &'static Watch> {
    std::iter::once(&table::WATCH)
}
