//! Producing: a thread that owns librdkafka's producers, and the handle by which the relay's main thread speaks to it.

pub mod broker_recovery;
pub mod callbacks;
pub mod client;
pub mod existence;
pub mod handle;
pub mod messages;
pub mod record;
pub mod thread;
