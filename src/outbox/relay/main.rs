//! The relay as a background worker: how it begins and how it ends.

use event_outbox_policy::event::envelope;
use pgrx::prelude::*;

use super::Relay;
use super::main_loop::Ending;
use super::readiness::NotReady;
use super::registration::{PAUSE_CHANGED, RELAY};
use super::wait_ready;
use crate::kafka::wakeup_fd::WakeupFd;
use crate::outbox::table::outbox;
use crate::outbox::table::outbox::Outbox;
use crate::worker::process::Exit;
use crate::worker::slot::Slot;
use crate::worker::{entry, listen, process, transaction};

/// Entry of the relay's process; the argument is the oid of its database.
///
/// # Safety
/// Called by Postgres as the main function of a background worker.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn event_outbox_relay_main(argument: pg_sys::Datum) {
    let slot = entry::begin(&RELAY, argument);
    outbox::prepare_session();
    if let Some(relay) = open(slot) {
        process::leave_without_exit_handlers();
        process::keep_freed_memory();
        entry::set_not_installed(relay.run() == Ending::Gone);
    }
    // Whether another follows is the launcher's business, not the postmaster's.
    process::exit(Exit::Done)
}

/// A relay, as soon as it can work in this database; none if that lacks the extension, or the relay is told to end.
fn open(slot: &'static Slot) -> Option<Relay> {
    slot.notify(PAUSE_CHANGED);
    let source =
        wait_ready::wait_until_ready(slot, || match transaction::run(c"event_outbox: starting", look) {
            Ok(found) => {
                entry::set_not_installed(found.is_none());
                found
            }
            Err(failed) => error!("could not start the relay: {failed}"),
        })?;
    if let Err(failed) = listen::start(c"outbox") {
        error!("could not listen on the channel outbox: {failed}");
    }
    match WakeupFd::new() {
        Ok(bell) => Some(Relay::new(slot, source, bell)),
        Err(cause) => error!("could not create an eventfd: {cause}"),
    }
}

/// What the relay calls this database in its events, or what keeps it from working there; none without the extension.
fn look() -> Option<Result<String, NotReady>> {
    let outbox = Outbox::locate()?;
    if let Some(not_ready) = NotReady::of(outbox) {
        return Some(Err(not_ready));
    }
    if !outbox.has_exact_sequence() {
        tracing::warn!(
            "the sequence outbox.events_id_seq has a cache: events can be late and out of order; \
             set it back by ALTER SEQUENCE outbox.events_id_seq CACHE 1"
        );
    }
    Some(Ok(envelope::default_source(&process::cluster_name(), &process::database_name())))
}
