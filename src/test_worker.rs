//! Owns the test worker: a further kind of worker, which proves that kinds can be registered. No shipped
//! build has it.
//!
//! Runs in: a background worker for each database, if `event_outbox.test_worker` is on.

use pgrx::prelude::*;
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting};

use crate::pg::function::{Arguments, sql_function};
use crate::pg::wait_set::Sleep;
use crate::worker::kind::{Kind, Notice};
use crate::worker::phase::Request;
use crate::worker::process::{self, Exit};
use crate::worker::registration::Registration;
use crate::worker::slot::Slot;
use crate::worker::{at_commit, entry, log, transaction};

sql_function!(outbox_greet_test_worker, pg_finfo_outbox_greet_test_worker, greet);

static IS_ON: GucSetting<bool> = GucSetting::<bool>::new(false);

const KIND: Kind = Kind::new(3);

/// The notice that `greet` sends.
const GREETING: Notice = Notice::new(0);

/// Registers the test worker.
pub static TEST_WORKER: Registration = Registration {
    kind: KIND,
    name: c"event_outbox test worker",
    helpers: &[],
    noun: "test worker",
    while_absent: "Nothing happens.",
    entry: "event_outbox_test_worker_main",
    after_any_change: Notice::NONE,
    is_needed: None,
    reserved: |_| {},
    started: |_| {},
    ended: |_| {},
};

/// Defines the setting. Returns whether the kind must be registered.
pub fn is_on() -> bool {
    GucRegistry::define_bool_guc(
        c"event_outbox.test_worker",
        c"Starts a test worker in each database with the extension.",
        c"",
        &IS_ON,
        GucContext::Postmaster,
        GucFlags::default(),
    );
    IS_ON.get()
}

/// Greets the test worker of this database when the transaction commits.
fn greet(_arguments: &Arguments) -> Option<pg_sys::Datum> {
    at_commit::wake(KIND, GREETING);
    Some(pg_sys::Datum::from(0_usize))
}

/// Entry of the test worker's process.
///
/// # Safety
/// Called by Postgres as the main function of a background worker.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn event_outbox_test_worker_main(argument: pg_sys::Datum) {
    let slot = entry::begin(&TEST_WORKER, argument);
    work(slot);
    process::exit(Exit::Done)
}

/// Counts greetings, which `pg_stat_activity.application_name` shows, until it is asked to end or the
/// extension is dropped.
fn work(slot: &Slot) {
    let sleep = Sleep::new(c"EventOutboxTestWorker", None);
    let mut greetings = 0;
    while !process::stop_requested() && slot.order() == Request::None {
        slot.wakeup.take();
        process::reload_if_asked();
        process::answer_interrupts();
        match transaction::run(c"event_outbox: looking for the extension", is_installed) {
            Ok(true) => {}
            Ok(false) => return entry::set_not_installed(true),
            Err(failed) => error!("could not look for the extension: {failed}"),
        }
        if slot.take_notice(GREETING) {
            greetings += 1;
            if let Ok(name) = std::ffi::CString::new(format!("greeted {greetings} times")) {
                process::show_name(&name);
            }
        }
        log::flush();
        if !slot.wakeup.is_set() && !process::has_orders() && slot.request() == Request::None {
            sleep.wait(None);
        }
    }
}

fn is_installed() -> bool {
    // SAFETY: a look-up of a C string, in a transaction.
    unsafe { pg_sys::get_extension_oid(c"event_outbox".as_ptr(), true) != pg_sys::InvalidOid }
}
