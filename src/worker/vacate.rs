//! Owns the vacating of a database: while a command needs a database to itself, its workers stay away.
//!
//! Runs in: the backend of the command.

use std::cell::Cell;
use std::time::{Duration, Instant};

use pgrx::prelude::*;

use super::phase::{Phase, Request};
use super::slot::Slot;
use super::{registration, slots};
use crate::pg::background_workers;

/// How long a command waits for the workers to leave its database. Postgres itself then waits 5 s more before
/// it gives up with "database is being accessed by other users".
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);

thread_local! {
    /// The database that a command of this session has to itself.
    static VACATED: Cell<Option<pg_sys::Oid>> = const { Cell::new(None) };
}

/// Asks all workers of a database to leave and to stay away, and waits until they have left or the time is
/// up: then Postgres says that the database is in use, which is true.
pub fn ask(database: pg_sys::Oid) {
    let workers = || slots::all().of_database(database);
    if workers().next().is_none() {
        return end_helpers(database);
    }
    VACATED.set(Some(database));
    workers().for_each(|slot| slot.ask(Request::Leave));
    let deadline = Instant::now() + LEAVE_TIMEOUT;
    while workers().any(|slot| slot.phase().is_alive()) && Instant::now() < deadline {
        // Workers that have been started meanwhile.
        let is_late = |slot: &&Slot| slot.phase().is_alive() && slot.request() != Request::Leave;
        workers().filter(is_late).for_each(|slot| slot.ask(Request::Leave));
        // SAFETY: sleeps a moment, and answers interrupts, as Postgres does where it waits for others to
        // leave.
        unsafe { pg_sys::pg_usleep(10_000) };
        check_for_interrupts!();
    }
    // A worker that does not run is not to be started now.
    for slot in workers() {
        let _ = [Phase::Requested, Phase::Queued, Phase::Exited, Phase::Failed, Phase::Asleep]
            .into_iter()
            .any(|phase| slot.advance(phase, Phase::Vacated));
    }
    end_helpers(database);
}

/// Ends the further processes of workers, which may outlive these to finish their transactions. Nobody starts one now.
fn end_helpers(database: pg_sys::Oid) {
    let helpers = registration::all().iter().flat_map(|registration| registration.helpers);
    background_workers::terminate(database, &helpers.copied().collect::<Vec<_>>());
}

/// Calls the workers back after the command has succeeded or failed. Cannot fail.
pub fn call_back() {
    let Some(database) = VACATED.take() else { return };
    for slot in slots::all().of_database(database) {
        slot.forget_request();
        slot.advance(Phase::Vacated, Phase::Requested);
    }
    // The launcher looks whether the database is still there.
    slots::all().launcher.set();
}
