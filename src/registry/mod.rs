//! A library over the Schema Registry's HTTP interface. It names no table and no setting.
//!
//! Runs in: a thread of its own, which may wait for the registry as long as it takes.

pub mod client;
pub mod errand;
