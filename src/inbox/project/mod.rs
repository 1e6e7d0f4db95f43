//! Projections: background workers that keep the latest value of each key of a topic in a table.
//!
//! A projection is a subscription whose events no session receives. Its process is connected as the owner of the table, so
//! there is no superuser below the table's triggers and checks to return to. The ingest worker starts the processes, as
//! [`definition`] says. Each has a loop ([`process`]): it takes events ([`taken`], [`gathering`]), makes rows of them, applies
//! these to the table ([`target`], [`rows`]), and notes how far it has come ([`progress`]), in one transaction. [`crash`] is for
//! those whose rows crash the server. [`rebuild`] is what the process of a rebuild does besides, and [`wait`] is for sessions.

pub mod crash;
pub mod definition;
pub mod gathering;
pub mod process;
pub mod progress;
pub mod rebuild;
pub mod rows;
pub mod sources;
pub mod taken;
pub mod target;
pub mod task;
pub mod wait;
pub mod work;

/// Requests the shared memory.
pub fn init() {
    wait::init();
}
