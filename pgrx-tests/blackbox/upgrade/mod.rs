//! From one release, server or database to another.

pub mod dump;
pub mod releases;
mod replication;
