//! The relay: from the table to Kafka and back, one per database.
//!
//! [`main`] is the worker's entry point; it runs the [`Relay`](main_loop::Relay)'s loop. Only this main thread touches
//! Postgres; only the Kafka thread, behind [`ProducerHandle`](crate::kafka::producer::handle::ProducerHandle), touches librdkafka.
//!
//! Runs in: a background worker, one for each database that has the extension.

pub mod admin;
pub mod candidates;
pub mod faulty;
pub mod listeners;
pub mod locked_rows;
pub mod main;
pub mod main_loop;
pub mod metrics;
pub mod mistakes;
pub mod pause;
pub mod producer;
pub mod readiness;
pub mod registration;
pub mod settle;
pub mod shown_state;
pub mod stalled_topics;
pub mod state;
pub mod sweep;
pub mod unreplicated;
pub mod wait_ready;
pub mod watch;
