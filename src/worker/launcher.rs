//! Owns the launcher, which starts the workers of all databases.
//!
//! Runs in: a background worker without a database.
//!
//! `docs/architecture.md` draws the phases of a worker's life, and says who causes each transition.

use std::collections::{HashMap, VecDeque};
use std::ffi::c_int;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use event_outbox_policy::backoff::Backoff;
use event_outbox_policy::worker::rate_limit::RateLimit;
use pgrx::bgworkers::{
    BackgroundWorkerBuilder, BackgroundWorkerStatus, BgWorkerStartTime, DynamicBackgroundWorker,
};
use pgrx::prelude::*;

use super::kind::WorkerKey;
use super::phase::Phase;
use super::process::Exit;
use super::registration::Registration;
use super::slot::Slot;
use super::{databases, log, process, registration, slots, transaction};
use crate::pg::backend;
use crate::pg::durability;
use crate::pg::user_error::UserError;
use crate::pg::wait_set::Sleep;
use crate::settings::workers;

/// After this the postmaster restarts the launcher itself, if it ends.
const RESTART_AFTER: Duration = Duration::from_secs(1);

/// First and longest pause before a worker that ended is started again.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// A worker that ran this long started without trouble: its next pause is a short one.
const STEADY: Duration = Duration::from_secs(60);

/// Examining a database takes less than this; a slot that it needs is free again then.
const EXAMINATION: Duration = Duration::from_secs(5);

/// How long a worker stays away if nobody calls it back.
const VACATED_AT_MOST: Duration = Duration::from_secs(30);

/// Workers that are started at the same time to look for the extension; others need background workers, too.
const PROBES_AT_ONCE: usize = 2;

/// How often all databases are examined. Further requests count as one.
const RESCANS: RateLimit = RateLimit { burst: 5, period: Duration::from_secs(5) };

/// Registers the launcher with the postmaster.
pub fn init() {
    BackgroundWorkerBuilder::new("event_outbox launcher")
        .set_type("event_outbox launcher")
        .set_library("event_outbox")
        .set_function("event_outbox_launcher_main")
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
        .set_restart_time(Some(RESTART_AFTER))
        .enable_spi_access()
        .load();
}

/// Entry of the launcher's process.
///
/// # Safety
/// Called by Postgres as the main function of a background worker.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn event_outbox_launcher_main(_argument: pg_sys::Datum) {
    process::attach_signals();
    // SAFETY: a background worker that was registered with a database connection. Without a database it sees
    // the shared catalogs only, and no command has to wait for it.
    unsafe { pg_sys::BackgroundWorkerInitializeConnection(std::ptr::null(), std::ptr::null(), 0) };
    process::show_name(c"event_outbox launcher");
    log::init();
    process::at_exit(detach);
    slots::all().launcher.attach();
    Launcher::new().run();
    process::exit(Exit::Again)
}

#[pg_guard]
unsafe extern "C-unwind" fn detach(_code: c_int, _argument: pg_sys::Datum) {
    slots::all().launcher.detach();
}

/// All workers that can be needed: in each database, one of each kind that each database has.
fn list_workers() -> VecDeque<WorkerKey> {
    let in_each =
        |database| registration::of_each_database().map(move |kind| WorkerKey { database, kind: kind.kind });
    match transaction::run(c"event_outbox: listing databases", databases::connectable) {
        Ok(databases) => databases.into_iter().flat_map(in_each).collect(),
        Err(failed) => error!("could not list the databases: {failed}"),
    }
}

fn has_ended(process: &DynamicBackgroundWorker) -> bool {
    matches!(process.pid(), Err(BackgroundWorkerStatus::Stopped))
}

fn no_process_for(registration: &Registration, database: &str) -> UserError {
    UserError {
        code: PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
        message: format!(
            "no background worker is left for the {} of database \"{database}\"",
            registration.noun
        ),
        detail: format!(
            "{} The launcher tries again with pauses of up to a minute, and when another worker ends.",
            registration.while_absent
        ),
        hint: "Raise max_worker_processes, by one for each database with the extension and one for the \
               launcher, and restart the server."
            .into(),
    }
}

fn no_slot_for(database: &str) -> UserError {
    UserError {
        code: PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
        message: format!("event_outbox.max_workers leaves no worker for database \"{database}\""),
        detail: format!(
            "Other databases use all {} workers. If this database has the extension, it waits until one of them ends.",
            workers::max_workers()
        ),
        hint: "Raise event_outbox.max_workers above the number of databases with the extension, and restart the server."
            .into(),
    }
}

struct Launcher {
    /// Workers that may be needed: whether their databases have the extension is not known yet.
    unknown: VecDeque<WorkerKey>,
    workers: HashMap<WorkerKey, WorkerState>,
    /// All slots are in use, and some database has none.
    shortage: Option<Shortage>,
    /// The history of the rescans; see [`RateLimit`].
    rescans: i64,
    sleep: Sleep,
}

/// Slots are missing.
struct Shortage {
    since: Instant,
    is_logged: bool,
}

/// What the launcher remembers of a worker.
struct WorkerState {
    backoff: Backoff,
    process: Option<DynamicBackgroundWorker>,
    /// All of Postgres' background workers were in use.
    starved: bool,
    /// When it was last started, or found vacated.
    since: Instant,
}

impl Default for WorkerState {
    fn default() -> Self {
        let backoff = Backoff::new(PAUSE.0, PAUSE.1);
        Self { backoff, process: None, starved: false, since: Instant::now() }
    }
}

impl Launcher {
    fn new() -> Self {
        Self {
            unknown: list_workers(),
            workers: HashMap::new(),
            shortage: None,
            rescans: 0,
            sleep: Sleep::new(c"EventOutboxLauncher", None),
        }
    }

    fn run(mut self) {
        while !process::stop_requested() {
            slots::all().launcher.take();
            slots::all().take_flush().into_iter().for_each(durability::flush);
            process::reload_if_asked();
            process::answer_interrupts();
            self.rescan();
            self.probe();
            for (key, slot) in slots::all().in_use() {
                self.tend(key, slot);
            }
            self.report_shortage();
            log::flush();
            if !slots::all().launcher.is_set() && !process::has_orders() {
                self.sleep.wait(self.next_date().map(|date| date.saturating_duration_since(Instant::now())));
            }
        }
    }

    /// Lists all databases again, if that was requested and is not done too often.
    fn rescan(&mut self) {
        if RESCANS.next_allowed(self.rescans) <= crate::pg::now() && slots::all().take_rescan() {
            self.rescans = RESCANS.record(self.rescans, crate::pg::now());
            for key in list_workers() {
                if !self.unknown.contains(&key) {
                    self.unknown.push_back(key);
                }
            }
        }
    }

    /// When to do it, if it was requested.
    fn rescan_date(&self) -> Option<Instant> {
        let left = u64::try_from(RESCANS.next_allowed(self.rescans) - crate::pg::now()).unwrap_or(0);
        slots::all().rescan_is_pending().then(|| Instant::now() + Duration::from_micros(left))
    }

    /// Has the next unknown databases examined, a few at a time.
    fn probe(&mut self) {
        let starting = || {
            let is_early = |slot: &Slot| matches!(slot.phase(), Phase::Requested | Phase::Starting);
            slots::all().in_use().filter(|(_, slot)| is_early(slot)).count()
        };
        self.readmit();
        while starting() < PROBES_AT_ONCE {
            let Some(key) = self.unknown.front() else { return };
            if slots::all().reserve(*key).is_none() {
                return;
            }
            self.unknown.pop_front();
        }
    }

    /// Has the database that was left out examined first, if there is a slot again, and then all others.
    fn readmit(&mut self) {
        if slots::all().are_in_use() {
            return;
        }
        if let Some(database) = slots::all().take_left_out() {
            for registration in registration::of_each_database() {
                self.unknown.push_front(WorkerKey { database, kind: registration.kind });
            }
            slots::all().request_rescan();
        }
    }

    /// A database that has no slot, if all are in use.
    fn left_out(&self) -> Option<pg_sys::Oid> {
        let unknown = || self.unknown.front().filter(|_| slots::all().are_in_use()).map(|key| key.database);
        slots::all().left_out().or_else(unknown)
    }

    /// Writes to the log that slots are missing; once, and not while databases are only examined.
    fn report_shortage(&mut self) {
        let Some(database) = self.left_out() else {
            self.shortage = None;
            return;
        };
        let shortage =
            self.shortage.get_or_insert_with(|| Shortage { since: Instant::now(), is_logged: false });
        if shortage.is_logged || shortage.since.elapsed() < EXAMINATION {
            return;
        }
        shortage.is_logged = true;
        let name = || databases::admits_workers(database).then(|| databases::name(database));
        match transaction::run(c"event_outbox: looking for a database", name) {
            Ok(Some(name)) => no_slot_for(&name).log(PgLogLevel::WARNING),
            // It needs no worker any more; another database may.
            Ok(None) => {
                self.shortage = None;
                self.unknown.retain(|key| key.database != database);
                slots::all().take_left_out();
            }
            Err(failed) => tracing::warn!("could not look for database {database:?}: {failed}"),
        }
    }

    /// When to do it.
    fn report_date(&self) -> Option<Instant> {
        self.shortage
            .as_ref()
            .filter(|shortage| !shortage.is_logged)
            .map(|shortage| shortage.since + EXAMINATION)
    }

    /// Does what the phase of a worker's life asks for.
    fn tend(&mut self, key: WorkerKey, slot: &Slot) {
        let state = self.workers.entry(key).or_default();
        match slot.phase() {
            Phase::Requested if state.backoff.is_over(Instant::now()) => self.start(key, slot),
            Phase::Starting | Phase::Running => {
                // It ended before it could take its slot.
                if state.process.as_ref().is_some_and(has_ended) && slot.pid.load(Ordering::Relaxed) == 0 {
                    state.process = None;
                    slot.enter(Phase::Failed);
                    slots::all().launcher.set();
                }
            }
            Phase::Exited => {
                state.backoff.record_end(Instant::now());
                slot.enter(Phase::Requested);
            }
            Phase::Failed => {
                if state.since.elapsed() >= STEADY {
                    state.backoff.record_success();
                }
                state.backoff.record_failure(Instant::now());
                slot.enter(Phase::Requested);
            }
            Phase::NotInstalled => {
                // The extension, or an event, may have come since the worker looked.
                let was_woken = slot.wakeup.take();
                if was_woken { slot.enter(Phase::Requested) } else { self.release(key, slot) }
            }
            Phase::Vacated => {
                if state.process.take().is_some() {
                    state.since = Instant::now();
                } else if state.since.elapsed() >= VACATED_AT_MOST {
                    slot.advance(Phase::Vacated, Phase::Requested);
                }
            }
            Phase::Requested => {}
        }
    }

    fn start(&mut self, key: WorkerKey, slot: &Slot) {
        let database = key.database;
        let Some(registration) = registration::of(key.kind) else { return self.release(key, slot) };
        let look = || databases::admits_workers(database).then(|| databases::name(database));
        let name = match transaction::run(c"event_outbox: starting a worker", look) {
            Ok(Some(name)) => name,
            Ok(None) => return self.release(key, slot),
            Err(failed) => return tracing::warn!("could not look for database {database:?}: {failed}"),
        };
        slot.enter(Phase::Starting);
        let process_name = registration.name.to_string_lossy();
        let started = BackgroundWorkerBuilder::new(&process_name)
            .set_type(&process_name)
            .set_library("event_outbox")
            .set_function(registration.entry)
            .set_argument(Some(pg_sys::Datum::from(database)))
            .set_restart_time(None)
            .set_notify_pid(backend::pid())
            .enable_spi_access()
            .load_dynamic();
        let state = self.workers.entry(key).or_default();
        state.since = Instant::now();
        match started {
            Ok(process) => {
                state.process = Some(process);
                state.starved = false;
            }
            Err(_) => {
                slot.enter(Phase::Requested);
                state.backoff.record_failure(Instant::now());
                if !std::mem::replace(&mut state.starved, true) {
                    let error = no_process_for(registration, &name);
                    slot.show_error(&error.to_string());
                    error.log(PgLogLevel::WARNING);
                }
            }
        }
    }

    /// Frees a slot. Others may have waited for it, or for its background worker.
    fn release(&mut self, key: WorkerKey, slot: &Slot) {
        self.workers.remove(&key);
        slots::all().release(slot);
        // The next database may have it.
        slots::all().launcher.set();
        for state in self.workers.values_mut().filter(|state| state.starved) {
            state.backoff.record_end(Instant::now());
        }
    }

    fn next_date(&self) -> Option<Instant> {
        let workers = slots::all().in_use().filter_map(|(key, slot)| {
            let state = self.workers.get(&key)?;
            match slot.phase() {
                Phase::Requested => state.backoff.until().or(Some(Instant::now())),
                Phase::Vacated => Some(state.since + VACATED_AT_MOST),
                Phase::Starting | Phase::Running | Phase::Exited | Phase::Failed | Phase::NotInstalled => {
                    None
                }
            }
        });
        workers.chain(self.rescan_date()).chain(self.report_date()).min()
    }
}
