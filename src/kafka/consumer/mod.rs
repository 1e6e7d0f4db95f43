//! Consuming: a thread that owns one librdkafka consumer, and the handle with which a worker's main thread controls it.
//!
//! The consumer belongs to no group. Its partitions and offsets are assigned to it, so there are no rebalances, no
//! coordinator, and no offsets but those in the database.
//!
//! Runs in: the Kafka thread, but for [`handle`].

pub mod callbacks;
pub mod client;
pub mod comparison;
pub mod handle;
pub mod lost;
pub mod message;
pub mod messages;
mod seek;
pub mod thread;
