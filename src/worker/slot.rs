//! One worker's slot in shared memory: its phase, the requests to it, and its status. Runs in: every process.
//!
//! The worker, the launcher and, at commit, every backend write to it. So the parts that a commit touches are atomics,
//! which can neither block nor raise an error.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicU32, Ordering};
use std::time::Duration;

use event_outbox_policy::worker::allowance::Allowance;
use pgrx::prelude::*;

use super::error_text::ErrorText;
use super::metrics::Figures;
use super::phase::{Phase, Request};
use super::state::{Connection, Dated, State};
use super::wakeup::Wakeup;

/// How often a worker restarts because it is asked to. Further requests count as one, which waits while the worker
/// goes on.
const RESTARTS: Allowance = Allowance { burst: 10, period: Duration::from_secs(10) };

/// The slot of one worker. Times are in microseconds since 1970.
#[derive(Default)]
pub struct Slot {
    /// The database's oid; 0 for a free slot.
    pub(super) database: AtomicU32,
    phase: AtomicU32,
    request: AtomicU32,
    /// The history of its restarts; see [`Allowance`].
    restarts: AtomicI64,
    /// Process of the worker; 0 if none runs.
    pub pid: AtomicI32,
    /// Wakes the worker.
    pub wakeup: Wakeup,
    /// Rows that the relay has read before have changed: it is to read the table from the beginning.
    pub reread: AtomicBool,
    /// The database was paused or resumed: the relay is to find out which.
    pub paused_changed: AtomicBool,
    state: Dated,
    connection: Dated,
    error: ErrorText,
    /// The error shown persists.
    is_troubled: AtomicBool,
    /// When the last error was over; 0 if none was.
    recovered_at: AtomicI64,
    /// The worker's metrics.
    pub figures: Figures,
}

impl Slot {
    /// The database it belongs to.
    pub fn database(&self) -> pg_sys::Oid {
        pg_sys::Oid::from(self.database.load(Ordering::SeqCst))
    }

    /// The phase of its life.
    pub fn phase(&self) -> Phase {
        Phase::from_u32(self.phase.load(Ordering::Acquire))
    }

    /// Sets the phase.
    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u32, Ordering::Release);
    }

    /// Changes the phase from `from` to `to`; `false` if it is another one.
    pub fn advance(&self, from: Phase, to: Phase) -> bool {
        self.phase.compare_exchange(from as u32, to as u32, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Makes a request to the worker, and wakes it even while it ignores its wakeup.
    pub fn ask(&self, request: Request) {
        self.request.store(request as u32, Ordering::Release);
        self.wakeup.set_latch();
    }

    /// The last request.
    pub fn request(&self) -> Request {
        match self.request.load(Ordering::Acquire) {
            1 => Request::Restart,
            2 => Request::Leave,
            _ => Request::None,
        }
    }

    /// The last request, if it is due now.
    pub fn order(&self) -> Request {
        match self.request() {
            Request::Restart if self.next_restart() > crate::pg::now() => Request::None,
            request => request,
        }
    }

    /// When to restart, if that was requested.
    pub fn restart_date(&self) -> Option<i64> {
        (self.request() == Request::Restart).then(|| self.next_restart())
    }

    /// Counts a restart.
    pub fn count_restart(&self) {
        let arrival = self.restarts.load(Ordering::Relaxed);
        self.restarts.store(RESTARTS.done(arrival, crate::pg::now()), Ordering::Relaxed);
    }

    fn next_restart(&self) -> i64 {
        RESTARTS.next(self.restarts.load(Ordering::Relaxed))
    }

    /// Forgets the request.
    pub fn forget_request(&self) {
        self.request.store(Request::None as u32, Ordering::Release);
    }

    /// The state shown, and since when.
    pub fn state(&self) -> (State, i64) {
        let (value, since) = self.state.get();
        (State::from_u32(value), since)
    }

    /// Shows a state.
    pub fn show(&self, state: State) {
        self.state.set(state as u32, crate::pg::now());
    }

    /// The connection shown, and since when.
    pub fn connection(&self) -> (Connection, i64) {
        let (value, since) = self.connection.get();
        (Connection::from_u32(value), since)
    }

    /// Shows a connection.
    pub fn show_connection(&self, connection: Connection) {
        self.connection.set(connection as u32, crate::pg::now());
    }

    /// Shows an error.
    pub fn show_error(&self, text: &str) {
        self.error.set(text, crate::pg::now());
        self.is_troubled.store(true, Ordering::Relaxed);
    }

    /// Shows that the error is over, if there was one.
    pub fn show_recovery(&self) {
        if self.is_troubled.load(Ordering::Relaxed) && self.is_troubled.swap(false, Ordering::Relaxed) {
            self.recovered_at.store(crate::pg::now(), Ordering::Relaxed);
        }
    }

    /// When the error shown was over, in microseconds since 1970; 0 if it is not.
    pub fn recovered_at(&self) -> i64 {
        if self.is_troubled.load(Ordering::Relaxed) { 0 } else { self.recovered_at.load(Ordering::Relaxed) }
    }

    /// The last error shown and its time, if any.
    pub fn error(&self) -> Option<(String, i64)> {
        self.error.get()
    }

    /// Prepares the slot for another worker.
    pub(super) fn clear(&self) {
        self.pid.store(0, Ordering::Relaxed);
        self.restarts.store(0, Ordering::Relaxed);
        self.forget_request();
        self.state.clear();
        self.connection.clear();
        self.error.clear();
        self.is_troubled.store(false, Ordering::Relaxed);
        self.recovered_at.store(0, Ordering::Relaxed);
        self.figures.clear();
    }
}
