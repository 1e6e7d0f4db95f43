//! Owns the registrations of the kinds of workers, which capabilities provide.
//!
//! Runs in: any process.

use std::ffi::CStr;

use once_cell::sync::OnceCell;

use super::kind::{Kind, Notice};
use super::slot::Slot;

/// A kind of worker, as its capability registers it.
pub struct Registration {
    /// The kind.
    pub kind: Kind,
    /// What `pg_stat_activity` calls its processes.
    pub name: &'static CStr,
    /// What it calls the further processes that its workers start.
    pub helpers: &'static [&'static str],
    /// What messages call it.
    pub noun: &'static str,
    /// A sentence for messages: what happens while there is none.
    pub while_absent: &'static str,
    /// The C symbol of its entry point.
    pub entry: &'static str,
    /// The notice to a worker after a command that may have changed something that concerns it.
    pub after_any_change: Notice,
    /// Whether a database with the extension needs a worker of this kind; `None` if each does. Called in a transaction of
    /// another worker of the database.
    pub is_needed: Option<fn() -> bool>,
    /// Called when a worker's slot is reserved: clears what the kind keeps by slot. Cannot fail.
    pub reserved: fn(&Slot),
    /// Called in the worker's process when it has taken its slot. Cannot fail.
    pub started: fn(&Slot),
    /// Called in the worker's process when it leaves its slot. Cannot fail.
    pub ended: fn(&Slot),
}

static REGISTRATIONS: OnceCell<&'static [&'static Registration]> = OnceCell::new();

/// Makes the kinds known; once, in the postmaster. Each has a number of its own.
pub fn register(registrations: &'static [&'static Registration]) {
    let _ = REGISTRATIONS.set(registrations);
}

/// All kinds.
pub fn all() -> &'static [&'static Registration] {
    REGISTRATIONS.get().copied().unwrap_or_default()
}

/// The kinds of which each database with the extension has a worker. Those of the others are started by who needs them, and
/// by [`super::companions`].
pub fn of_each_database() -> impl Iterator<Item = &'static Registration> {
    all().iter().copied().filter(|registration| registration.is_needed.is_none())
}

/// The registration of a kind.
pub fn of(kind: Kind) -> Option<&'static Registration> {
    all().iter().copied().find(|registration| registration.kind == kind)
}
