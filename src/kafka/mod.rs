//! Everything that calls librdkafka. Nothing here may call Postgres: [`publisher`]'s handle is used by
//! the main thread, [`admin`] runs on a thread of its own for each request, all the rest on the Kafka thread.

pub mod admin;
pub mod client;
pub mod config;
pub mod context;
pub mod doorbell;
pub mod existence;
pub mod failure;
pub mod publisher;
pub mod record;
pub mod reminder;
pub mod thread;
