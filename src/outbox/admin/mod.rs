//! Owns the functions for operators: the outbox's state, the control of its relay, and the wait for published
//! events.
//!
//! Runs in: client backends.

pub mod functions;
pub mod stateless;
pub mod status;
pub mod wait_published;
