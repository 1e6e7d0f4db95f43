//! Owns background workers, one per database and kind: their start, wakeup, end and status.
//!
//! Runs in: any process.
//!
//! A capability registers its kind of worker ([`registration`]). [`launcher`] starts one for each database
//! that has the extension, in a slot of shared memory ([`slots`]); [`at_commit`] and [`lifecycle`] tell it
//! what sessions do. `README.md` beside this file is the map.

use registration::Registration;

pub mod admin_request;
pub mod at_commit;
pub mod companions;
pub mod databases;
pub mod entry;
mod error_text;
pub mod failure_log;
pub mod helpers;
pub mod kind;
pub mod launcher;
pub mod lifecycle;
pub mod listen;
pub mod log;
pub mod metrics;
pub mod phase;
pub mod process;
pub mod registration;
pub mod session;
pub mod slot;
pub mod slots;
pub mod transaction;
pub mod vacate;
pub mod wakeup;

/// Sets up the workers; in the postmaster.
pub fn init(registrations: &'static [&'static Registration]) {
    registration::register(registrations);
    slots::init();
    admin_request::init();
    at_commit::init();
    // While pg_upgrade works, nobody else is to publish or delete.
    if !crate::pg::is_binary_upgrade() {
        launcher::init();
    }
}
