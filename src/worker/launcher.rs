//! The launcher: keeps one relay per database that has the extension.
//!
//! ```text
//!            reserve                  start                  connected
//!   (free) ──────────▶ Wanted ─────────────────▶ Starting ──────────────▶ Running
//!      ▲                 ▲  ▲                        │                       │
//!      │                 │  ├── in a moment ─── Ended ◀── signal ────────────┤
//!      │                 │  └── after a pause ─ Failed ◀── error ────────────┤
//!      │                 └───── called back ──── Away ◀── asked to leave ────┤
//!      └───────────────────────────────────────  Gone ◀── no extension ──────┘
//! ```
//!
//! After a start of the server it does not know which databases have the extension, for only a process
//! inside a database can see that: it starts a relay in each, and those that find nothing end as Gone.
//! Backends reserve a slot when they create the extension, or emit where no relay runs; relays move their
//! own slot; all ring the launcher's bell.

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
use super::process::Exit;
use super::slots::{self, Phase, Slot};
use super::{databases, log, process, transaction};
use crate::pg::user_error::Complaint;
use crate::pg::wait_set::Sleep;

/// Restart of the launcher itself by the postmaster, should it end.
const RESTART_AFTER: Duration = Duration::from_secs(1);

/// First and longest pause before a relay that ended is started again.
const RELAY_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// A relay that ran this long had no trouble starting: its next pause is a short one.
const STEADY: Duration = Duration::from_secs(60);

/// How long a relay stays away if nobody calls it back.
const AWAY_AT_MOST: Duration = Duration::from_secs(30);

/// Relays that look for the extension at the same time after a start of the server; the worker slots
/// are shared with others.
const PROBES_AT_ONCE: usize = 2;

/// How often all databases are looked into; what comes between is one look more.
const SURVEYS: Allowance = Allowance { burst: 5, period: Duration::from_secs(5) };

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
    process::at_exit(take_bell_down);
    slots::roster().launcher.hang();
    Launcher::new().run();
    process::exit(Exit::Again)
}

#[pg_guard]
unsafe extern "C-unwind" fn take_bell_down(_code: c_int, _argument: pg_sys::Datum) {
    slots::roster().launcher.take_down();
}

fn list_databases() -> VecDeque<pg_sys::Oid> {
    match transaction::run(c"event_outbox: listing databases", databases::connectable) {
        Ok(databases) => databases.into(),
        Err(failed) => error!("could not list the databases: {failed}"),
    }
}

fn has_ended(worker: &DynamicBackgroundWorker) -> bool {
    matches!(worker.pid(), Err(BackgroundWorkerStatus::Stopped))
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
    /// Databases not looked into yet.
    unknown: VecDeque<pg_sys::Oid>,
    relays: HashMap<pg_sys::Oid, Charge>,
    /// What is remembered of the surveys; see [`Allowance`].
    surveys: i64,
    sleep: Sleep,
}

/// What the launcher remembers of a database's relay.
struct Charge {
    pause: Pause,
    worker: Option<DynamicBackgroundWorker>,
    /// No background worker was left for it.
    starved: bool,
    /// When it was last started, or seen away.
    since: Instant,
}

impl Default for Charge {
    fn default() -> Self {
        let pause = Pause::new(RELAY_PAUSE.0, RELAY_PAUSE.1);
        Self { pause, worker: None, starved: false, since: Instant::now() }
    }
}

impl Launcher {
    fn new() -> Self {
        Self {
            unknown: list_databases(),
            relays: HashMap::new(),
            surveys: 0,
            sleep: Sleep::new(c"EventOutboxLauncher", None),
        }
    }

    fn run(mut self) {
        while !process::stop_requested() {
            slots::roster().launcher.answer();
            process::reload_if_asked();
            process::answer_interrupts();
            self.survey();
            self.probe();
            for slot in slots::roster().taken() {
                self.tend(slot);
            }
            log::flush();
            if !slots::roster().launcher.is_rung() && !process::has_orders() {
                self.sleep.wait(self.next_date().map(|date| date.saturating_duration_since(Instant::now())));
            }
        }
    }

    /// Finds all databases anew, if that was asked for and is not done too often.
    fn survey(&mut self) {
        if SURVEYS.next(self.surveys) <= crate::pg::now() && slots::roster().is_to_be_surveyed() {
            self.surveys = SURVEYS.done(self.surveys, crate::pg::now());
            self.unknown = list_databases();
        }
    }

    /// When to do it, if it was asked for.
    fn survey_date(&self) -> Option<Instant> {
        let left = u64::try_from(SURVEYS.next(self.surveys) - crate::pg::now()).unwrap_or(0);
        slots::roster().survey_is_pending().then(|| Instant::now() + Duration::from_micros(left))
    }

    /// Has the next unknown databases looked into, a few at a time.
    fn probe(&mut self) {
        let starting = || {
            let early = |slot: &&Slot| matches!(slot.phase(), Phase::Wanted | Phase::Starting);
            slots::roster().taken().filter(early).count()
        };
        while starting() < PROBES_AT_ONCE {
            let Some(database) = self.unknown.pop_front() else { return };
            if slots::roster().reserve(database).is_none() {
                tracing::warn!("more than {} databases have relays: one is left out", slots::MAX_RELAYS);
            }
        }
    }

    /// Does what the phase of a relay's life asks for.
    fn tend(&mut self, slot: &Slot) {
        let database = slot.database();
        let charge = self.relays.entry(database).or_default();
        match slot.phase() {
            Phase::Wanted if charge.pause.is_over() => self.start(slot),
            Phase::Starting | Phase::Running => {
                // It ended before it could say so, while it was being started.
                if charge.worker.as_ref().is_some_and(has_ended) && slot.pid.load(Ordering::Relaxed) == 0 {
                    charge.worker = None;
                    slot.enter(Phase::Failed);
                    slots::roster().launcher.ring();
                }
            }
            Phase::Ended => {
                charge.pause.paused();
                slot.enter(Phase::Wanted);
            }
            Phase::Failed => {
                if charge.since.elapsed() >= STEADY {
                    charge.pause.succeeded();
                }
                charge.pause.failed();
                slot.enter(Phase::Wanted);
            }
            // The extension may have come, or an event, since the relay looked.
            Phase::Gone if slot.bell.answer() => slot.enter(Phase::Wanted),
            Phase::Gone => self.release(slot),
            Phase::Away => {
                if charge.worker.take().is_some() {
                    charge.since = Instant::now();
                } else if charge.since.elapsed() >= AWAY_AT_MOST {
                    slot.advance(Phase::Away, Phase::Wanted);
                }
            }
            Phase::Wanted => {}
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
        let charge = self.relays.entry(database).or_default();
        charge.since = Instant::now();
        match started {
            Ok(worker) => {
                charge.worker = Some(worker);
                charge.starved = false;
            }
            Err(_) => {
                slot.enter(Phase::Wanted);
                charge.pause.failed();
                if !std::mem::replace(&mut charge.starved, true) {
                    let complaint = no_worker_for(&name);
                    slot.show_error(&complaint.to_string());
                    complaint.log(PgLogLevel::WARNING);
                }
            }
        }
    }

    /// Gives a slot back. Its background worker may be what others wait for.
    fn release(&mut self, slot: &Slot) {
        self.relays.remove(&slot.database());
        slots::roster().release(slot);
        for charge in self.relays.values_mut().filter(|charge| charge.starved) {
            charge.pause.paused();
        }
    }

    fn next_date(&self) -> Option<Instant> {
        let relays = slots::roster().taken().filter_map(|slot| {
            let charge = self.relays.get(&slot.database())?;
            match slot.phase() {
                Phase::Wanted => charge.pause.until().or(Some(Instant::now())),
                Phase::Away => Some(charge.since + AWAY_AT_MOST),
                Phase::Starting | Phase::Running | Phase::Ended | Phase::Failed | Phase::Gone => None,
            }
        });
        relays.chain(self.survey_date()).min()
    }
}
