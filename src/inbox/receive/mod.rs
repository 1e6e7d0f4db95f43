//! How sessions receive events: in their own transactions, whose commit acknowledges them.
//!
//! [`functions`] receives, lane by lane ([`lane`]), as [`event_outbox_policy::inbox::plan`] decides; [`deliveries`] knows what the
//! transaction has received, and leaves a note of it in [`failures`] if it is rolled back; [`charge`] is what such a note means. What is received
//! is written down ([`in_flight`]), so that a crash of the server counts, too ([`crashed`]).
//!
//! Runs in: client backends; [`charge`] also in the ingest worker.

pub mod await_ready;
pub mod charge;
pub mod crashed;
pub mod decode;
pub mod deliveries;
pub mod failures;
pub mod functions;
pub mod in_flight;
pub mod lane;
pub mod last_error;
pub mod lease;
pub mod log;
pub mod nack;
pub mod open_log;
pub mod output;
pub mod ready;
pub mod refusals;
pub mod stored;
pub mod subscription;
pub mod wake;

/// Requests the shared memory, and registers for the ends of transactions; in the postmaster.
pub fn init() {
    failures::init();
    crashed::init();
    deliveries::init();
    wake::init();
    last_error::init();
}
