//! Owns a handler's process: it receives events and calls the function, each batch in a transaction.
//!
//! Runs in: a handler's background worker, connected as the owner of the function.

use std::ffi::{CStr, CString};
use std::time::{Duration, Instant};

use event_outbox_policy::backoff::Backoff;
use pgrx::bgworkers::BackgroundWorker;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;

use super::task::Task;
use crate::failpoints::{self, Point};
use crate::inbox::arrivals;
use crate::inbox::receive::last_error;
use crate::pg::snapshot::Snapshot;
use crate::pg::spi::{self, Access, Statement};
use crate::worker::failure_log::FailureLog;
use crate::worker::log;
use crate::worker::process::{self, Exit};
use crate::worker::transaction;

/// The first and the longest pause after a failure. The failed event itself waits for its own retry.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(5));

/// The longest sleep, for what becomes due without an arrival: retries, and leases that expire.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The entry point of a handler's process. The extra data of its registration is its [`Task`].
///
/// # Safety
/// Called by Postgres as the main function of a background worker.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn event_outbox_inbox_handler_main(_argument: pg_sys::Datum) {
    process::attach_signals_of_helper();
    let Ok(task) = BackgroundWorker::get_extra().parse::<Task>() else { process::exit(Exit::Done) };
    // SAFETY: a background worker that was registered with a database connection, before any other use of the database.
    unsafe { pg_sys::BackgroundWorkerInitializeConnectionByOid(task.database, task.role, 0) };
    if let Ok(name) = CString::new(format!("event_outbox handler of {}", task.subscription)) {
        process::show_name(&name);
    }
    process::reload_if_asked();
    log::init();
    work(&task);
    log::flush();
    process::exit(Exit::Done)
}

/// Receives and calls until the process is asked to end.
fn work(task: &Task) {
    let Some(call) = Call::of(task) else { return };
    let mut failures =
        FailureLog::of(format!("the handler of subscription \"{}\" failed", task.subscription));
    let mut backoff = Backoff::new(PAUSE.0, PAUSE.1);
    while !process::leave_requested() {
        process::reload_if_asked();
        process::answer_interrupts();
        // Taken before looking, so that events that arrive meanwhile end the sleep.
        let arrivals = arrivals::condition().wait(c"EventOutboxHandler");
        match transaction::run(c"event_outbox: handling events", || call.run()) {
            Ok(true) => {
                backoff.record_success();
            }
            Ok(false) => {
                backoff.record_success();
                arrivals.sleep(LOOK_AGAIN);
            }
            Err(failed) => {
                backoff.record_failure(Instant::now());
                // To be terminated is no failure of the handler.
                if !process::stop_requested() {
                    failures.record(&failed);
                }
                let left = backoff.until().map_or(Duration::ZERO, |until| until - Instant::now());
                arrivals.sleep(left);
            }
        }
        // A process without work comes here each second, so no count is late. All failures are in views besides.
        failures.log_counts();
        log::flush();
    }
}

/// The statement that receives events and calls the function.
struct Call {
    statement: Statement,
    subscription: String,
    batch: i32,
}

impl Call {
    /// `None` if the function does not exist any more.
    fn of(task: &Task) -> Option<Self> {
        let look = || {
            // SAFETY: in a transaction; the results are C strings in its memory, or null.
            unsafe {
                let name = pg_sys::get_func_name(task.function);
                let schema = pg_sys::get_namespace_name(pg_sys::get_func_namespace(task.function));
                (!name.is_null() && !schema.is_null()).then(|| {
                    let name = pg_sys::quote_qualified_identifier(schema, name);
                    CStr::from_ptr(name).to_string_lossy().into_owned()
                })
            }
        };
        let function = match transaction::run(c"event_outbox: looking for the handler", look) {
            Ok(function) => function?,
            Err(failed) => error!("could not look for the handler: {failed}"),
        };
        let text = if task.takes_array {
            format!(
                "SELECT {function}(b.events) FROM (SELECT pg_catalog.array_agg(e ORDER BY e.position) AS events \
                   FROM inbox.receive($1, $2) AS e) AS b WHERE b.events IS NOT NULL"
            )
        } else {
            format!("SELECT {function}(e) FROM inbox.receive($1, $2) AS e")
        };
        // The process has one statement, which lives as long as the process.
        let text: &'static CStr = Box::leak(CString::new(text).ok()?.into_boxed_c_str());
        let statement = Statement::new(text, &[pg_sys::TEXTOID, pg_sys::INT4OID]);
        Some(Self { statement, subscription: task.subscription.clone(), batch: task.batch })
    }

    /// Handles a batch, in a transaction. Returns whether there were any events.
    fn run(&self) -> bool {
        let _snapshot = Snapshot::take();
        PgTryBuilder::new(|| {
            spi::connected(|| {
                let arguments = [self.subscription.as_str().into_datum(), self.batch.into_datum()];
                let has_events = !self.statement.execute(&arguments, Access::Write, 0).is_empty();
                if has_events {
                    failpoints::reach(Point::InHandler);
                }
                has_events
            })
        })
        .catch_others(|cause| {
            // The end of the transaction records the failure, with this text.
            if let CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) = &cause {
                last_error::remember(report.message());
            }
            cause.rethrow()
        })
        .execute()
    }
}
