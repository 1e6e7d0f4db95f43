//! The pure policy of event_outbox.
//!
//! Nothing here knows Postgres or Kafka, reads a clock or draws a random number: values come in as
//! arguments and decisions go out. So a plain `cargo test` can check each rule.
//! The modules follow the path of an event.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod backoff;
pub mod base64;
pub mod delivery;
pub mod event;
pub mod inbox;
pub mod kafka;
pub mod reading;
pub mod registry;
pub mod schema;
pub mod store;
pub mod worker;
