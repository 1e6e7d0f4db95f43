//! The event store.

mod aggregates;
mod append;
mod concurrency;
mod publish;
mod reading;
mod rights;
