//! A library over librdkafka, by role. Nothing here calls Postgres.
//!
//! Runs in: the relay's process. [`producer::handle`] is used by its main thread, [`admin`] runs on a thread of its own
//! for each request, all the rest on the Kafka thread.

pub mod admin;
pub mod config;
pub mod error_class;
pub mod producer;
pub mod wakeup_fd;
