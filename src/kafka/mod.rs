//! A library over librdkafka, by role. Nothing here calls Postgres.
//!
//! Runs in: the relay's process. Its main thread uses [`producer::handle`] and [`config`]. Each request of [`admin`] has a
//! thread of its own. The rest runs on the Kafka thread.

pub mod admin;
pub mod config;
pub mod error_class;
pub mod producer;
pub mod wakeup_fd;
