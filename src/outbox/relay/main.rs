//! The relay as a background worker: how it begins and how it ends.

use std::ffi::c_int;

use event_outbox_policy::event::envelope;
use once_cell::sync::OnceCell;
use pgrx::prelude::*;
use std::sync::atomic::{AtomicBool, Ordering};

use super::main_loop::{Ending, Relay};
use super::readiness::NotReady;
use super::wait_ready;
use crate::kafka::wakeup_fd::WakeupFd;
use crate::outbox::table::statements::{self, Outbox};
use crate::worker::phase::{Phase, Request};
use crate::worker::process::Exit;
use crate::worker::slot::Slot;
use crate::worker::slots;
use crate::worker::state::State;
use crate::worker::{admin_request, listen, log, process, transaction};

/// This process' slot, for the callback at its end.
static SLOT: OnceCell<&'static Slot> = OnceCell::new();

/// Whether the relay ends because there is nothing to relay.
static GONE: AtomicBool = AtomicBool::new(false);

/// Entry of the relay's process; the argument is the oid of its database.
///
/// # Safety
/// Called by Postgres as the main function of a background worker.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn event_outbox_relay_main(argument: pg_sys::Datum) {
    let database = pg_sys::Oid::from(argument.value() as u32);
    let Some(slot) = slots::all().find(database) else { process::exit(Exit::Done) };
    take_slot(slot);
    process::attach_signals();
    // SAFETY: a background worker that was registered with a database connection, before any other use
    // of the database; as the bootstrap superuser.
    unsafe { pg_sys::BackgroundWorkerInitializeConnectionByOid(database, pg_sys::InvalidOid, 0) };
    process::show_name(c"event_outbox relay");
    // Before the settings are read: a producer made of older ones would be replaced at once.
    process::reload_if_asked();
    statements::prepare_session();
    log::init();
    if let Some(relay) = open(slot) {
        process::leave_without_exit_handlers();
        process::keep_freed_memory();
        if relay.run() == Ending::Gone {
            GONE.store(true, Ordering::Relaxed);
        }
    }
    // Whether another follows is the launcher's business, not the postmaster's.
    process::exit(Exit::Done)
}

fn take_slot(slot: &'static Slot) {
    let _ = SLOT.set(slot);
    process::at_exit(leave_slot);
    // SAFETY: a plain global of this process.
    slot.pid.store(unsafe { pg_sys::MyProcPid }, Ordering::Relaxed);
    if slot.request() == Request::Restart {
        // The settings are about to be read.
        slot.forget_request();
    }
    slot.show(State::Starting);
    slot.wakeup.attach();
    slot.advance(Phase::Starting, Phase::Running);
    // The launcher may be waiting to start the next.
    slots::all().launcher.set();
}

/// A relay, as soon as it can work in this database; none if that lacks the extension, or the relay is told to end.
fn open(slot: &'static Slot) -> Option<Relay> {
    slot.paused_changed.store(true, Ordering::Release);
    let source = wait_ready::until_free(slot, || match transaction::run(c"event_outbox: starting", look) {
        Ok(found) => {
            GONE.store(found.is_none(), Ordering::Relaxed);
            found
        }
        Err(failed) => error!("could not start the relay: {failed}"),
    })?;
    if let Err(failed) = listen::start() {
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
    if let Some(hindrance) = NotReady::of(outbox) {
        return Some(Err(hindrance));
    }
    if !outbox.has_exact_sequence() {
        tracing::warn!(
            "the sequence outbox.events_id_seq has a cache: events can be late and out of order; \
             set it back by ALTER SEQUENCE outbox.events_id_seq CACHE 1"
        );
    }
    Some(Ok(envelope::default_source(&process::cluster_name(), &process::database_name())))
}

/// At the end of the process, however it came: says to the launcher what is to follow.
#[pg_guard]
unsafe extern "C-unwind" fn leave_slot(code: c_int, _argument: pg_sys::Datum) {
    let Some(slot) = SLOT.get() else { return };
    slot.wakeup.detach();
    slot.pid.store(0, Ordering::Relaxed);
    slot.figures.end();
    admin_request::requests().leave_unanswered();
    let order = slot.order();
    if order == Request::Restart {
        slot.count_restart();
    }
    let next = match order {
        _ if GONE.load(Ordering::Relaxed) => Phase::NotInstalled,
        Request::Leave => Phase::Vacated,
        Request::Restart => Phase::Requested,
        // Terminated while it was starting, it ends by an error that is none.
        Request::None if code == Exit::Done as c_int || process::stop_requested() => Phase::Exited,
        Request::None => Phase::Failed,
    };
    slot.forget_request();
    slot.enter(next);
    slots::all().launcher.set();
}
