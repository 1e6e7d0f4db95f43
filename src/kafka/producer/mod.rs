//! Producing: a thread that owns librdkafka's producers, and the handle with which the relay's main thread controls it.
//!
//! Runs in: the Kafka thread, but for [`handle`].

pub mod broker_recovery;
pub mod callbacks;
pub mod client;
pub mod handle;
pub mod held_batches;
pub mod messages;
pub mod record;
pub mod thread;
pub mod transactional;
