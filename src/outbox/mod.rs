//! The outbox: events are stored by the application's transactions, and published once those have committed.
//!
//! [`emit`] stores them, [`relay`] publishes them, [`table`] is what both know of `outbox.events`, [`admin`] are the
//! functions by which operators look and act.

pub mod admin;
pub mod emit;
pub mod missing_copies;
pub mod published;
pub mod relay;
pub mod table;

/// Requests the shared memory; in the postmaster.
pub fn init() {
    relay::metrics::init();
    published::init();
}
