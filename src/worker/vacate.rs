//! Making way: while a command needs a database to itself, its relay stays away.

use std::cell::Cell;
use std::time::{Duration, Instant};

use pgrx::prelude::*;

use super::phase::{Phase, Request};
use super::slot::Slot;
use super::slots;

/// How long a command waits for a relay to leave its database. Postgres itself then waits 5 s more
/// before it gives up with "database is being accessed by other users".
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);

thread_local! {
    /// The slot of the database that a command of this session has to itself.
    static VACATED: Cell<Option<&'static Slot>> = const { Cell::new(None) };
}

/// Asks the relay of a database to leave and to stay away, and waits until it has left or the time is up: then Postgres
/// says that the database is in use, which is true.
pub fn ask(database: pg_sys::Oid) {
    let Some(slot) = slots::all().find(database) else { return };
    VACATED.set(Some(slot));
    slot.ask(Request::Leave);
    let deadline = Instant::now() + LEAVE_TIMEOUT;
    while matches!(slot.phase(), Phase::Starting | Phase::Running) && Instant::now() < deadline {
        // SAFETY: sleeps a moment, and answers interrupts, as Postgres does where it waits for others to leave.
        unsafe { pg_sys::pg_usleep(10_000) };
        check_for_interrupts!();
    }
    // One that is not running is not to be started now.
    let _ = [Phase::Requested, Phase::Exited, Phase::Failed]
        .into_iter()
        .any(|phase| slot.advance(phase, Phase::Vacated));
}

/// Calls the relay back that was sent away, if one was: after the command, or when it has failed. Cannot fail.
pub fn call_back() {
    if let Some(slot) = VACATED.take() {
        // The launcher looks whether the database is still there.
        slot.forget_request();
        slot.advance(Phase::Vacated, Phase::Requested);
        slots::all().launcher.set();
    }
}
