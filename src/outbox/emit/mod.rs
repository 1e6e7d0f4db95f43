//! Owns the storing of events: `emit()` and its siblings, the triggers for plain INSERTs, and the topic
//! grants.
//!
//! Runs in: client backends.

pub mod additions;
pub mod append;
pub mod append_many;
pub mod backlog;
pub mod functions;
pub mod idempotency;
pub mod invalid;
pub mod naming;
pub mod options;
pub mod rights;
pub mod scheduled;
pub mod schemas;
pub mod sequences;
pub mod topic_grants;
mod topic_names;
pub mod triggers;
pub mod try_emit;
