//! The event store.

mod aggregates;
mod append;
mod concurrency;
mod direct;
mod dumps;
mod projections;
mod publish;
mod reading;
mod rights;
mod subscriptions;
