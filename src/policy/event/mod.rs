//! What an event is, what makes one invalid, and how it becomes a record.

pub mod draft;
pub mod envelope;
pub mod event_batch;
pub mod headers;
pub mod json;
pub mod size;
pub mod timestamps;
pub mod topic;
