//! A library over librdkafka, by role. Nothing here calls Postgres.
//!
//! Runs in: the processes of workers. Their main threads use [`producer::handle`], [`consumer::handle`] and [`config`]. Each
//! request of [`admin`] has a thread of its own. The rest runs on Kafka threads.

pub mod admin;
pub mod client_log;
pub mod config;
pub mod connections;
pub mod consumer;
pub mod error_class;
pub mod offsets;
pub mod probe;
pub mod producer;
pub mod question;
pub mod threads;
pub mod topics;
pub mod wakeup_fd;
