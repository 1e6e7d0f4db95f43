//! What operators and applications ask of the outbox: its state, its relay, whether an event is published.
//!
//! Runs in: client backends.

pub mod functions;
pub mod stateless;
pub mod status;
pub mod wait_published;
