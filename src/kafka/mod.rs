//! Everything that calls librdkafka. Nothing here may call Postgres: [`publisher`]'s handle is used by
//! the main thread, all the rest runs on the Kafka thread.

pub mod client;
pub mod config;
pub mod context;
pub mod doorbell;
pub mod failure;
pub mod publisher;
pub mod reminder;
pub mod thread;
