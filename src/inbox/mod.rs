//! The inbox: a worker stores Kafka's events in the database, and sessions receive them in their own transactions.
//!
//! [`ingest`] is the worker, [`receive`] are the functions by which sessions receive and acknowledge, [`admin`] those by
//! which users set up what they receive; [`table`] is what all know of the tables.

pub mod admin;
pub mod arrivals;
pub mod handlers;
pub mod ingest;
mod mistakes;
pub mod project;
pub mod receive;
pub mod table;

use crate::pg::watch::Watch;

/// The tables of which sessions remember something.
pub fn watches() -> impl Iterator<Item = &'static Watch> {
    table::direct::WATCHES.iter().chain(&receive::subscription::WATCHES)
}

/// Requests the shared memory, and registers for the ends of transactions; in the postmaster.
pub fn init() {
    arrivals::init();
    ingest::metrics::init();
    receive::init();
    project::init();
}
