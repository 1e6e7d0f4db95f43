//! The extension seen from outside: SQL goes in, Kafka records come out.
//!
//! One binary, so that all tests share one broker and one server; a test that crashes or restarts something
//! starts its own. Needs the release build in the private tree: `make test` puts it there.

mod concurrency;
mod envelope;
mod lab;
mod partitions;
mod readme;
mod record;
mod smoke;
mod stage;
mod transactions;
mod wake;
