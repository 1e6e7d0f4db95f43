//! From one release, server or database to another.

mod dump;
mod parallel_restore;
mod releases;
mod replication;
