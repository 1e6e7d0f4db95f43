//! The black-box tests: SQL goes in, Kafka records come out.
//!
//! One binary, so that tests share one broker and one server; a test that crashes or restarts a server starts its own.
//! The release build must be in the private tree: `make test` puts it there.

mod admin;
mod docs;
mod failure;
mod inbox;
mod kafka;
mod lab;
mod lifecycle;
mod ordering;
mod outbox;
mod performance;
mod registry;
mod schemas;
mod security;
mod smoke;
mod store;
mod support;
mod upgrade;
mod versions;
