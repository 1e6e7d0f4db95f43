//! Events: their parts, their validation, and their form as Kafka records.

pub mod capture;
pub mod dates;
pub mod draft;
pub mod envelope;
pub mod event_batch;
pub mod headers;
pub mod idempotency;
pub mod json;
pub mod naming;
pub mod router;
pub mod size;
pub mod structured;
pub mod timestamps;
pub mod topic;
pub mod trace_context;
