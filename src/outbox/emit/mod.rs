//! Storing events: `emit()` and its siblings, the triggers of plain INSERTs, and who may write to which topic.
//!
//! Runs in: client backends.

pub mod append;
pub mod functions;
pub mod invalid;
pub mod topic_grants;
mod topic_names;
pub mod triggers;
pub mod try_emit;
