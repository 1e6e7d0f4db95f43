//! Owns the entry point of the relay's background worker: how it starts and how it ends.
//!
//! Runs in: a relay's background worker, main thread.

use event_outbox_policy::event::envelope;
use pgrx::prelude::*;

use super::Relay;
use super::main_loop::Ending;
use super::readiness::NotReady;
use super::registration::{DELIVERY_CHANGED, PAUSE_CHANGED, RELAY};
use super::wait_ready;
use crate::kafka::wakeup_fd::WakeupFd;
use crate::outbox::emit::additions;
use crate::outbox::table::outbox::Outbox;
use crate::worker::process::Exit;
use crate::worker::slot::Slot;
use crate::worker::{companions, entry, listen, process, session, transaction};

/// The entry point of the relay's process; the argument is the OID of its database.
///
/// # Safety
/// Called by Postgres as the main function of a background worker.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn event_outbox_relay_main(argument: pg_sys::Datum) {
    let slot = entry::begin(&RELAY, argument);
    session::prepare();
    additions::leave_to_sessions();
    if let Some(relay) = open(slot) {
        process::leave_without_exit_handlers();
        process::keep_freed_memory();
        entry::set_not_installed(relay.run() == Ending::Gone);
    }
    // The launcher decides whether to start another worker, not the postmaster.
    process::exit(Exit::Done)
}

/// Waits until a relay can work in this database, and creates it. Returns `None` if the database lacks the
/// extension, or if the worker is asked to end first.
fn open(slot: &'static Slot) -> Option<Relay> {
    slot.notify(PAUSE_CHANGED.and(DELIVERY_CHANGED));
    let source = wait_ready::wait_until_ready(slot, || {
        match transaction::run(c"event_outbox: starting", check_ready) {
            Ok(found) => {
                entry::set_not_installed(found.is_none());
                found
            }
            Err(failed) => error!("could not start the relay: {failed}"),
        }
    })?;
    if let Err(failed) = listen::start(c"outbox") {
        error!("could not listen on the channel outbox: {failed}");
    }
    match WakeupFd::new() {
        Ok(wakeup) => Some(Relay::new(slot, source, wakeup)),
        Err(cause) => error!("could not create an eventfd: {cause}"),
    }
}

/// Returns the default source of the events of this database, or the reason why the relay cannot work here;
/// `None` if the database lacks the extension.
fn check_ready() -> Option<Result<String, NotReady>> {
    let outbox = Outbox::locate()?;
    companions::start_needed();
    if let Some(not_ready) = NotReady::of(outbox) {
        return Some(Err(not_ready));
    }
    if !outbox.has_exact_sequence() {
        tracing::warn!(
            "the sequence outbox.events_id_seq has a cache: events can be late and out of order; \
             run ALTER SEQUENCE outbox.events_id_seq CACHE 1"
        );
    }
    Some(Ok(envelope::default_source(&process::cluster_name(), &process::database_name())))
}
