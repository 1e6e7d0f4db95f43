//! The relay: from the table to Kafka and back, one per database.
//!
//! [`launcher`] starts a [`worker`] for each database that has the extension; the worker runs the
//! [`Relay`](turn::Relay)'s loop. Only this main thread touches Postgres; only the Kafka thread, behind
//! [`Publisher`](crate::kafka::publisher::Publisher), touches librdkafka.

pub mod errand;
pub mod faulty;
pub mod held;
pub mod launcher;
pub mod listeners;
pub mod pause;
pub mod paused;
pub mod producer;
pub mod readers;
pub mod settle;
pub mod stuck;
pub mod sweep;
pub mod turn;
pub mod unreplicated;
pub mod waiting;
pub mod watch;
pub mod window;
pub mod worker;
