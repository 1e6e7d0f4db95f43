//! Owns the launcher, which starts the workers of all databases.
//!
//! Runs in: a background worker without a database.
//!
//! [`turns`] has the queue for processes, and [`shortage`] the report that slots are missing.
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

use self::shortage::Shortage;
use super::kind::WorkerKey;
use super::phase::Phase;
use super::process::Exit;
use super::slot::Slot;
use super::{databases, log, process, registration, slots, transaction};
use crate::pg::backend;
use crate::pg::durability;
use crate::pg::wait_set::Sleep;

pub mod shortage;
pub mod turns;

/// After this the postmaster restarts the launcher itself, if it ends.
const RESTART_AFTER: Duration = Duration::from_secs(1);

/// First and longest pause before a worker that ended is started again.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// A worker that ran this long started without trouble: its next pause is a short one.
const STEADY: Duration = Duration::from_secs(60);

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

struct Launcher {
    /// Workers that may be needed: whether their databases have the extension is not known yet.
    unknown: VecDeque<WorkerKey>,
    workers: HashMap<WorkerKey, WorkerState>,
    /// All slots are in use, and some database has none.
    shortage: Option<Shortage>,
    /// The history of the rescans; see [`RateLimit`].
    rescans: i64,
    /// When to look again who can make way for the workers that wait.
    next_turn: Option<Instant>,
    /// When a worker last got a process, or none waited.
    served_at: Instant,
    /// The workers that had a process when others last waited for one, and since when.
    working: Vec<(WorkerKey, i64)>,
    /// When one of them had left it; in microseconds since 1970.
    freed_at: i64,
    sleep: Sleep,
}

/// What the launcher remembers of a worker.
struct WorkerState {
    backoff: Backoff,
    process: Option<DynamicBackgroundWorker>,
    /// The log says that it waits for a process.
    is_wait_reported: bool,
    /// What it was offered for a helper.
    offer: Option<turns::Offer>,
    /// When it was last started, or found vacated.
    since: Instant,
}

impl Default for WorkerState {
    fn default() -> Self {
        let backoff = Backoff::new(PAUSE.0, PAUSE.1);
        Self { backoff, process: None, is_wait_reported: false, offer: None, since: Instant::now() }
    }
}

impl Launcher {
    fn new() -> Self {
        Self {
            unknown: list_workers(),
            workers: HashMap::new(),
            shortage: None,
            rescans: 0,
            next_turn: None,
            served_at: Instant::now(),
            working: Vec::new(),
            freed_at: 0,
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
            self.serve_queue();
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

    /// Does what the phase of a worker's life asks for.
    fn tend(&mut self, key: WorkerKey, slot: &Slot) {
        let state = self.workers.entry(key).or_default();
        match slot.phase() {
            Phase::Requested if state.backoff.is_over(Instant::now()) => {
                if self.must_queue() {
                    slot.enter(Phase::Queued)
                } else {
                    self.start(key, slot, crate::pg::now())
                }
            }
            Phase::Asleep if slot.is_to_wake() => {
                state.backoff.record_success();
                slot.advance(Phase::Asleep, Phase::Requested);
                slots::all().launcher.set();
            }
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
            Phase::Requested | Phase::Queued | Phase::Asleep => {}
        }
    }

    /// Starts a worker that has waited since then; it waits on if Postgres has no background worker left.
    fn start(&mut self, key: WorkerKey, slot: &Slot, since: i64) {
        let database = key.database;
        let Some(registration) = registration::of(key.kind) else { return self.release(key, slot) };
        let look = || databases::admits_workers(database);
        match transaction::run(c"event_outbox: starting a worker", look) {
            Ok(true) => {}
            Ok(false) => return self.release(key, slot),
            Err(failed) => return tracing::warn!("could not look for database {database:?}: {failed}"),
        }
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
                state.is_wait_reported = false;
            }
            Err(_) => slot.enter_at(Phase::Queued, since),
        }
    }

    /// Frees a slot. Others may have waited for it.
    fn release(&mut self, key: WorkerKey, slot: &Slot) {
        self.workers.remove(&key);
        slots::all().release(slot);
        // The next database may have it.
        slots::all().launcher.set();
    }

    fn next_date(&self) -> Option<Instant> {
        let workers = slots::all().in_use().filter_map(|(key, slot)| {
            let state = self.workers.get(&key)?;
            match slot.phase() {
                Phase::Requested => state.backoff.until().or(Some(Instant::now())),
                Phase::Vacated => Some(state.since + VACATED_AT_MOST),
                Phase::Asleep => turns::date_of(slot.wake_at.load(Ordering::Relaxed)),
                Phase::Queued
                | Phase::Starting
                | Phase::Running
                | Phase::Exited
                | Phase::Failed
                | Phase::NotInstalled => None,
            }
        });
        workers.chain(self.rescan_date()).chain(self.report_date()).chain(self.next_turn).min()
    }
}
