//! The launcher: starts the workers of all databases. Runs in: a background worker without a database.
//!
//! `README.md` beside this file draws the phases of a worker's life, and says who causes each transition.

use std::collections::{HashMap, VecDeque};
use std::ffi::c_int;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use event_outbox_policy::worker::allowance::Allowance;
use pgrx::bgworkers::{
    BackgroundWorkerBuilder, BackgroundWorkerStatus, BgWorkerStartTime, DynamicBackgroundWorker,
};
use pgrx::prelude::*;

use super::backoff::Pause;
use super::phase::Phase;
use super::process::Exit;
use super::slot::Slot;
use super::slots;
use super::{databases, log, process, transaction};
use crate::pg::user_error::Complaint;
use crate::pg::wait_set::Sleep;

/// Restart of the launcher itself by the postmaster, should it end.
const RESTART_AFTER: Duration = Duration::from_secs(1);

/// First and longest pause before a relay that ended is started again.
const RELAY_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// A relay that ran this long had no trouble starting: its next pause is a short one.
const STEADY: Duration = Duration::from_secs(60);

/// How long a worker stays away if nobody calls it back.
const VACATED_AT_MOST: Duration = Duration::from_secs(30);

/// Relays that look for the extension at the same time after a start of the server; the worker slots
/// are shared with others.
const PROBES_AT_ONCE: usize = 2;

/// How often all databases are examined. Further requests count as one.
const RESCANS: Allowance = Allowance { burst: 5, period: Duration::from_secs(5) };

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
    // SAFETY: a background worker that was registered with a database connection; without a database it
    // sees the shared catalogs only, and is in nobody's way.
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

fn list_databases() -> VecDeque<pg_sys::Oid> {
    match transaction::run(c"event_outbox: listing databases", databases::connectable) {
        Ok(databases) => databases.into(),
        Err(failed) => error!("could not list the databases: {failed}"),
    }
}

fn has_ended(process: &DynamicBackgroundWorker) -> bool {
    matches!(process.pid(), Err(BackgroundWorkerStatus::Stopped))
}

fn no_worker_for(database: &str) -> Complaint {
    Complaint {
        code: PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
        message: format!("no background worker is left for the relay of database \"{database}\""),
        detail: "Its events wait in the outbox. The start is tried again with pauses of up to a minute, and when a relay ends.".into(),
        hint: "Raise max_worker_processes, by one for each database with the extension and one for the \
               launcher, and restart the server."
            .into(),
    }
}

struct Launcher {
    /// Databases not examined yet.
    unknown: VecDeque<pg_sys::Oid>,
    relays: HashMap<pg_sys::Oid, WorkerState>,
    /// The history of the rescans; see [`Allowance`].
    rescans: i64,
    sleep: Sleep,
}

/// What the launcher remembers of a worker.
struct WorkerState {
    pause: Pause,
    process: Option<DynamicBackgroundWorker>,
    /// All of Postgres' background workers were in use.
    starved: bool,
    /// When it was last started, or found vacated.
    since: Instant,
}

impl Default for WorkerState {
    fn default() -> Self {
        let pause = Pause::new(RELAY_PAUSE.0, RELAY_PAUSE.1);
        Self { pause, process: None, starved: false, since: Instant::now() }
    }
}

impl Launcher {
    fn new() -> Self {
        Self {
            unknown: list_databases(),
            relays: HashMap::new(),
            rescans: 0,
            sleep: Sleep::new(c"EventOutboxLauncher", None),
        }
    }

    fn run(mut self) {
        while !process::stop_requested() {
            slots::all().launcher.take();
            process::reload_if_asked();
            process::answer_interrupts();
            self.rescan();
            self.probe();
            for slot in slots::all().in_use() {
                self.tend(slot);
            }
            log::flush();
            if !slots::all().launcher.is_set() && !process::has_orders() {
                self.sleep.wait(self.next_date().map(|date| date.saturating_duration_since(Instant::now())));
            }
        }
    }

    /// Lists all databases again, if that was requested and is not done too often.
    fn rescan(&mut self) {
        if RESCANS.next(self.rescans) <= crate::pg::now() && slots::all().take_rescan() {
            self.rescans = RESCANS.done(self.rescans, crate::pg::now());
            self.unknown = list_databases();
        }
    }

    /// When to do it, if it was requested.
    fn rescan_date(&self) -> Option<Instant> {
        let left = u64::try_from(RESCANS.next(self.rescans) - crate::pg::now()).unwrap_or(0);
        slots::all().rescan_is_pending().then(|| Instant::now() + Duration::from_micros(left))
    }

    /// Has the next unknown databases examined, a few at a time.
    fn probe(&mut self) {
        let starting = || {
            let early = |slot: &&Slot| matches!(slot.phase(), Phase::Requested | Phase::Starting);
            slots::all().in_use().filter(early).count()
        };
        while starting() < PROBES_AT_ONCE {
            let Some(database) = self.unknown.pop_front() else { return };
            if slots::all().reserve(database).is_none() {
                tracing::warn!("more than {} databases have relays: one is left out", slots::MAX_RELAYS);
            }
        }
    }

    /// Does what the phase of a worker's life asks for.
    fn tend(&mut self, slot: &Slot) {
        let database = slot.database();
        let state = self.relays.entry(database).or_default();
        match slot.phase() {
            Phase::Requested if state.pause.is_over() => self.start(slot),
            Phase::Starting | Phase::Running => {
                // It ended before it could take its slot.
                if state.process.as_ref().is_some_and(has_ended) && slot.pid.load(Ordering::Relaxed) == 0 {
                    state.process = None;
                    slot.enter(Phase::Failed);
                    slots::all().launcher.set();
                }
            }
            Phase::Exited => {
                state.pause.paused();
                slot.enter(Phase::Requested);
            }
            Phase::Failed => {
                if state.since.elapsed() >= STEADY {
                    state.pause.succeeded();
                }
                state.pause.failed();
                slot.enter(Phase::Requested);
            }
            Phase::NotInstalled => {
                // The extension, or an event, may have come since the worker looked.
                let was_woken = slot.wakeup.take();
                if was_woken { slot.enter(Phase::Requested) } else { self.release(slot) }
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

    fn start(&mut self, slot: &Slot) {
        let database = slot.database();
        let look = || databases::is_relayable(database).then(|| databases::name(database));
        let name = match transaction::run(c"event_outbox: starting a relay", look) {
            Ok(Some(name)) => name,
            Ok(None) => return self.release(slot),
            Err(failed) => return tracing::warn!("could not look for database {database:?}: {failed}"),
        };
        // SAFETY: a plain global of this process.
        let pid = unsafe { pg_sys::MyProcPid };
        slot.enter(Phase::Starting);
        let started = BackgroundWorkerBuilder::new("event_outbox relay")
            .set_type("event_outbox relay")
            .set_library("event_outbox")
            .set_function("event_outbox_relay_main")
            .set_argument(Some(pg_sys::Datum::from(database)))
            .set_restart_time(None)
            .set_notify_pid(pid)
            .enable_spi_access()
            .load_dynamic();
        let state = self.relays.entry(database).or_default();
        state.since = Instant::now();
        match started {
            Ok(process) => {
                state.process = Some(process);
                state.starved = false;
            }
            Err(_) => {
                slot.enter(Phase::Requested);
                state.pause.failed();
                if !std::mem::replace(&mut state.starved, true) {
                    let complaint = no_worker_for(&name);
                    slot.show_error(&complaint.to_string());
                    complaint.log(PgLogLevel::WARNING);
                }
            }
        }
    }

    /// Frees a slot. Others may have waited for its background worker.
    fn release(&mut self, slot: &Slot) {
        self.relays.remove(&slot.database());
        slots::all().release(slot);
        for state in self.relays.values_mut().filter(|state| state.starved) {
            state.pause.paused();
        }
    }

    fn next_date(&self) -> Option<Instant> {
        let relays = slots::all().in_use().filter_map(|slot| {
            let state = self.relays.get(&slot.database())?;
            match slot.phase() {
                Phase::Requested => state.pause.until().or(Some(Instant::now())),
                Phase::Vacated => Some(state.since + VACATED_AT_MOST),
                Phase::Starting | Phase::Running | Phase::Exited | Phase::Failed | Phase::NotInstalled => {
                    None
                }
            }
        });
        relays.chain(self.rescan_date()).min()
    }
}
