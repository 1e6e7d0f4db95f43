//! Owns the outbox: the application's transactions store events, and a relay publishes them after the commit.
//!
//! [`emit`] stores events, [`relay`] publishes them, [`table`] describes the tables that both use, and
//! [`admin`] has the functions for operators.
//!
//! Runs in: client backends and relays.

pub mod admin;
pub mod capture;
pub mod emit;
pub mod missing_copies;
pub mod published;
pub mod relay;
pub mod table;

/// Requests the shared memory; in the postmaster.
pub fn init() {
    relay::metrics::init();
    published::init();
    emit::scheduled::init();
    emit::backlog::init();
}
