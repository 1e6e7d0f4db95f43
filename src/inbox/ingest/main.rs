//! Owns the entry point of the ingest worker: how it starts and how it ends.
//!
//! Runs in: an ingest worker, main thread.

use pgrx::prelude::*;

use super::Ingest;
use super::catalog;
use super::registration::INGEST;
use crate::kafka::wakeup_fd::WakeupFd;
use crate::worker::process::Exit;
use crate::worker::{entry, process, session, transaction};

/// The entry point of the worker's process; the argument is the OID of its database.
///
/// # Safety
/// Called by Postgres as the main function of a background worker.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn event_outbox_inbox_main(argument: pg_sys::Datum) {
    let slot = entry::begin(&INGEST, argument);
    session::prepare();
    let is_needed =
        match transaction::run(c"event_outbox: looking for subscriptions", catalog::has_subscriptions) {
            Ok(is_needed) => is_needed,
            Err(failed) => error!("could not look for subscriptions: {failed}"),
        };
    // Without a subscription there is no worker: the launcher frees its slot.
    entry::set_not_installed(!is_needed);
    if is_needed {
        process::leave_without_exit_handlers();
        match WakeupFd::new() {
            Ok(wakeup) => Ingest::new(slot, wakeup).run(),
            Err(cause) => error!("could not create an eventfd: {cause}"),
        }
    }
    // The launcher decides whether to start another worker, not the postmaster.
    process::exit(Exit::Done)
}
