//! The schemas of events: what is registered, which topics are bound to it, and payloads in its encodings.
//!
//! [`catalog`] is what a session knows of the tables (`sql/schemas/tables.sql`), [`definitions`] are the compiled schemas,
//! [`encode`] is for those who emit, [`decode`] for those who receive, and [`functions`] check what is registered.
//!
//! Runs in: client backends, and workers that emit.

pub mod catalog;
pub mod decode;
pub mod definitions;
pub mod encode;
pub mod functions;
pub mod references;
pub mod registry;
pub mod table;
pub mod wire_ids;

use crate::pg::watch::Watch;

/// The watches over the tables of schemas.
pub fn watches() -> impl Iterator<Item = &'static Watch> {
    std::iter::once(&table::WATCH)
}
