//! Producing: a thread that owns librdkafka's producers, and the handle by which the relay's main thread speaks to it.

pub mod broker_recovery;
pub mod callbacks;
pub mod client;
pub mod handle;
pub mod known_topics;
pub mod messages;
pub mod record;
pub mod thread;
