//! Owns a projection's process: its start, its loop, and what it does about errors.
//!
//! Runs in: a projection's background worker, connected as the owner of the table.

use std::ffi::CString;
use std::time::{Duration, Instant};

use event_outbox_policy::backoff::Backoff;
use pgrx::bgworkers::BackgroundWorker;
use pgrx::prelude::*;

use super::crash;
use super::progress;
use super::task::Task;
use super::wait;
use super::work::{Done, Work};
use crate::inbox::arrivals;
use crate::inbox::ingest::registration::{SUBSCRIPTIONS_CHANGED, slot_of};
use crate::inbox::table::as_owner;
use crate::worker::log;
use crate::worker::process::{self, Exit};
use crate::worker::transaction::{self, Failed};

/// The first and the longest pause after a failure.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// The longest sleep, for what comes without an arrival: the end of the topic may be reached without an event, or a schema may
/// come; and later the table may get another owner, or go.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
const LOOK_SELDOM: Duration = Duration::from_secs(10);

/// How long a lock of the table, or of a row of it, is waited for. Then the wait is shown as an error, and begins again.
const LOCK_TIMEOUT: &std::ffi::CStr = c"10s";

/// From version 17 on, a worker may be connected as a role that may not log in.
#[cfg(any(feature = "pg17", feature = "pg18"))]
const CONNECTION: u32 = pg_sys::BGWORKER_BYPASS_ROLELOGINCHECK;
#[cfg(not(any(feature = "pg17", feature = "pg18")))]
const CONNECTION: u32 = 0;

/// The entry point of a projection's process. The extra data of its registration is its [`Task`].
///
/// # Safety
/// Called by Postgres as the main function of a background worker.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn event_outbox_inbox_projection_main(_argument: pg_sys::Datum) {
    process::attach_signals_of_helper();
    let Ok(task) = BackgroundWorker::get_extra().parse::<Task>() else { process::exit(Exit::Done) };
    // SAFETY: a background worker that was registered with a database connection, before any other use of the database.
    unsafe { pg_sys::BackgroundWorkerInitializeConnectionByOid(task.database, task.role, CONNECTION) };
    if let Ok(name) = CString::new(format!("event_outbox projection {}", task.name)) {
        process::show_name(&name);
    }
    process::reload_if_asked();
    log::init();
    prepare_session();
    crash::init_process();
    follow(&task);
    log::flush();
    process::exit(Exit::Done)
}

/// The session is the table owner's own, but for what the work rests on.
fn prepare_session() {
    process::force_setting(c"lock_timeout", LOCK_TIMEOUT);
    // Rows that a policy hides would be missed in silence; so this is an error.
    process::force_setting(c"row_security", c"off");
    // The rows of a transaction are sorted and kept in memory.
    process::force_setting(c"work_mem", c"64MB");
    process::force_setting(c"jit", c"off");
    process::force_setting(c"default_transaction_isolation", c"read committed");
    process::force_setting(c"default_transaction_read_only", c"off");
    process::force_setting(c"default_transaction_deferrable", c"off");
}

/// Applies events until the process is asked to end, or the projection is another one.
fn follow(task: &Task) {
    let mut work = Work::new(task);
    let mut backoff = Backoff::new(PAUSE.0, PAUSE.1);
    while !process::leave_requested() {
        process::reload_if_asked();
        process::answer_interrupts();
        // Taken before looking, so that events that arrive meanwhile end the sleep.
        let arrivals = arrivals::condition().wait(c"EventOutboxProjection");
        match transaction::run(c"event_outbox: projecting", || work.run()) {
            Ok(done) => {
                if backoff.record_success() {
                    tracing::info!("projection \"{}\" goes on", task.name);
                }
                match done {
                    // A broadcast ends the wait for arrivals, so none may come before the sleep.
                    Done::Applied => wait::projected(),
                    Done::Nothing => arrivals.sleep(if work.is_ready() { LOOK_SELDOM } else { LOOK_AGAIN }),
                    Done::Waiting => arrivals.sleep(LOOK_AGAIN),
                    Done::Refused => {}
                    Done::Outdated => {
                        drop(arrivals);
                        return ask_for_another();
                    }
                }
            }
            Err(failed) => {
                work.forget();
                report(task, &failed, backoff.record_failure(Instant::now()));
                let left = backoff.until().map_or(Duration::ZERO, |until| until - Instant::now());
                arrivals.sleep(left);
            }
        }
        log::flush();
    }
}

/// Shows an error; the first one in a row is logged, too.
fn report(task: &Task, failed: &Failed, is_first: bool) {
    if process::stop_requested() {
        return;
    }
    if is_first {
        tracing::warn!("projection \"{}\" cannot go on, will retry: {failed}", task.name);
    }
    let note = || as_owner(|| progress::note_error(task.subscription, &failed.message));
    if let Err(other) = transaction::run(c"event_outbox: noting an error", note)
        && is_first
    {
        tracing::warn!("the error of projection \"{}\" cannot be shown: {other}", task.name);
    }
}

/// Has the ingest worker read the definitions again: the table has another owner, or the projection has ended.
fn ask_for_another() {
    // SAFETY: a plain global of this process.
    if let Some(slot) = slot_of(unsafe { pg_sys::MyDatabaseId }) {
        slot.notify(SUBSCRIPTIONS_CHANGED);
    }
}
