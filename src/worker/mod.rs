//! Background workers of a database: they are started, woken, sent away and seen by what is here.
//!
//! [`launcher`] starts one for each database that has the extension, in a slot of shared memory ([`slots`]);
//! [`at_commit`] and [`lifecycle`] tell it of what sessions do.

pub mod admin_request;
pub mod at_commit;
pub mod backoff;
pub mod databases;
mod error_text;
pub mod launcher;
pub mod lifecycle;
pub mod listen;
pub mod log;
pub mod metrics;
pub mod phase;
pub mod process;
pub mod slot;
pub mod slots;
pub mod state;
pub mod transaction;
pub mod vacate;
pub mod wakeup;
