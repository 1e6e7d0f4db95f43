//! The order of the events of a key.

mod concurrency;
mod fairness;
mod keys;
