//! The table `outbox.events`, as the relay reads and changes it.

pub mod rows;
pub mod statements;
