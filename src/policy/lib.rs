//! The pure policy of event_outbox.
//!
//! Nothing here knows Postgres or Kafka, reads a clock or draws a random number: values come in as
//! arguments and decisions go out. That is what makes each rule provable by a plain `cargo test`.
//! The modules follow the way of an event.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod allowance;
pub mod apart;
pub mod backlog;
pub mod backoff;
pub mod by_id;
pub mod caution;
pub mod envelope;
pub mod event;
pub mod figures;
pub mod headers;
pub mod json;
pub mod notify;
pub mod order;
pub mod outcome;
pub mod pace;
pub mod packed;
pub mod producer;
pub mod properties;
pub mod property_rules;
pub mod redactor;
pub mod repeats;
pub mod size;
pub mod sweep;
pub mod timestamps;
pub mod topic;
pub mod version;
pub mod watchdog;
