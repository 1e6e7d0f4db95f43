//! Owns the start of workers that only some databases need: the launcher does not know which, but the worker that each has can
//! look.
//!
//! Runs in: the main thread of a worker that each database has, in a transaction.

use super::kind::WorkerKey;
use super::{registration, slots};

/// Has the workers started that this database needs besides.
pub fn start_needed() {
    for registration in registration::all() {
        if registration.is_needed.is_some_and(|is_needed| is_needed()) {
            // If no slot is left, whoever needs the worker asks for it again.
            if slots::all().reserve(WorkerKey::here(registration.kind)).is_some() {
                slots::all().launcher.set();
            }
        }
    }
}
