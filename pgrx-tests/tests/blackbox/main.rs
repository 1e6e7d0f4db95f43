//! The extension seen from outside: SQL goes in, Kafka records come out.
//!
//! One binary, so that all tests share one broker and one server; a test that crashes or restarts something
//! starts its own. Needs the release build in the private tree: `make test` puts it there.

mod backlog;
mod concurrency;
mod dump;
mod envelope;
mod functions;
mod lab;
mod notify;
mod partitions;
mod privileges;
mod readme;
mod record;
mod search_path;
mod smoke;
mod stage;
mod surroundings;
mod transactions;
mod validation;
mod views;
mod wait_published;
mod wake;
