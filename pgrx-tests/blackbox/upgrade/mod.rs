//! From one release, server or database to another.

mod dump;
mod releases;
mod replication;
