//! Owns one worker's slot in shared memory: its phase, the requests to it, and its status.
//!
//! Runs in: any process, also at commit.
//!
//! The worker, the launcher and, at commit, every backend write to it. So the parts that a commit touches are
//! atomics, which can neither block nor raise an error.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use event_outbox_policy::worker::rate_limit::RateLimit;

use super::error_text::ErrorText;
use super::helpers::Helpers;
use super::kind::{Notice, WorkerKey};
use super::phase::{Phase, Request};
use super::wakeup::Wakeup;
use crate::pg::atomic_enum::AtomicEnum;

/// How often a worker restarts because it is asked to. Further requests count as one, which waits while the
/// worker goes on.
const RESTARTS: RateLimit = RateLimit { burst: 10, period: Duration::from_secs(10) };

/// The slot of one worker. Times are in microseconds since 1970.
#[derive(Default)]
pub struct Slot {
    /// The [`WorkerKey`] as a number; 0 for a free slot.
    key: AtomicU64,
    /// Its place among the slots.
    index: AtomicUsize,
    phase: AtomicEnum<Phase>,
    /// When it entered the phase.
    phase_since: AtomicI64,
    request: AtomicEnum<Request>,
    /// The history of its restarts; see [`RateLimit`].
    restarts: AtomicI64,
    /// Process of the worker; 0 if none runs.
    pub pid: AtomicI32,
    /// Since when the worker has had nothing to do; 0 while it has.
    pub idle_since: AtomicI64,
    /// What it has to do with further processes.
    pub helpers: Helpers,
    /// When a sleeping worker is to be started even if nothing wakes it; [`i64::MAX`] for never.
    pub wake_at: AtomicI64,
    /// Wakes the worker.
    pub wakeup: Wakeup,
    /// The notices that the worker has not taken yet; see [`Notice`].
    notices: AtomicU32,
    error: ErrorText,
    /// The error shown persists.
    is_troubled: AtomicBool,
    /// When the last error was over; 0 if none was.
    recovered_at: AtomicI64,
}

impl Slot {
    /// The worker that it belongs to; `None` for a free slot.
    pub fn key(&self) -> Option<WorkerKey> {
        WorkerKey::from_bits(self.key.load(Ordering::SeqCst))
    }

    /// Its place among the slots, for arrays that have as many elements.
    pub fn index(&self) -> usize {
        self.index.load(Ordering::Relaxed)
    }

    /// Gives the slot at `index` to a worker that is to be started. The caller holds the lock of
    /// reservations.
    pub(super) fn reserve(&self, key: WorkerKey, index: usize, prepare: impl FnOnce(&Self)) {
        self.clear();
        self.index.store(index, Ordering::Relaxed);
        prepare(self);
        self.enter(Phase::Requested);
        self.key.store(key.to_bits(), Ordering::Release);
    }

    /// Frees the slot. The caller holds the lock of reservations.
    pub(super) fn free(&self) {
        self.key.store(0, Ordering::SeqCst);
    }

    /// Sends a notice to the worker, and wakes it even while it ignores its wakeup. Safe at commit.
    pub fn notify(&self, notice: Notice) {
        self.notices.fetch_or(notice.bits(), Ordering::AcqRel);
        self.wakeup.set_latch();
    }

    /// Whether this notice was sent and not taken yet.
    pub fn has_notice(&self, notice: Notice) -> bool {
        self.notices.load(Ordering::Acquire) & notice.bits() != 0
    }

    /// Takes a notice; whether there was one. Call this before looking, so that a change during the look is
    /// noticed.
    pub fn take_notice(&self, notice: Notice) -> bool {
        self.notices.fetch_and(!notice.bits(), Ordering::AcqRel) & notice.bits() != 0
    }

    /// The phase of its life.
    pub fn phase(&self) -> Phase {
        self.phase.load()
    }

    /// When it entered the phase.
    pub fn phase_since(&self) -> i64 {
        self.phase_since.load(Ordering::Relaxed)
    }

    /// Sets the phase.
    pub fn enter(&self, phase: Phase) {
        self.enter_at(phase, crate::pg::now());
    }

    /// Sets the phase to one that it entered at another time.
    pub(super) fn enter_at(&self, phase: Phase, since: i64) {
        self.phase_since.store(since, Ordering::Relaxed);
        self.phase.store(phase);
    }

    /// Changes the phase from `from` to `to`; `false` if it is another one.
    pub fn advance(&self, from: Phase, to: Phase) -> bool {
        let is_done = self.phase.advance(from, to);
        if is_done {
            self.phase_since.store(crate::pg::now(), Ordering::Relaxed);
        }
        is_done
    }

    /// Whether a worker that sleeps is to be started.
    pub fn is_to_wake(&self) -> bool {
        self.wakeup.is_set()
            || self.request() == Request::Restart
            || self.wake_at.load(Ordering::Relaxed) <= crate::pg::now()
    }

    /// Asks the worker to make way for another, unless it is to end anyway.
    pub fn ask_to_make_way(&self) {
        if self.request.advance(Request::None, Request::MakeWay) {
            self.wakeup.set_latch();
        }
    }

    /// Makes a request to the worker, and wakes it even while it ignores its wakeup.
    pub fn ask(&self, request: Request) {
        self.request.store(request);
        self.wakeup.set_latch();
    }

    /// The last request.
    pub fn request(&self) -> Request {
        self.request.load()
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
        self.restarts.store(RESTARTS.record(arrival, crate::pg::now()), Ordering::Relaxed);
    }

    fn next_restart(&self) -> i64 {
        RESTARTS.next_allowed(self.restarts.load(Ordering::Relaxed))
    }

    /// Forgets the request.
    pub fn forget_request(&self) {
        self.request.store(Request::None);
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
    fn clear(&self) {
        self.pid.store(0, Ordering::Relaxed);
        // Of the former owner.
        self.wakeup.take();
        self.idle_since.store(0, Ordering::Relaxed);
        self.helpers.forget();
        self.wake_at.store(i64::MAX, Ordering::Relaxed);
        self.restarts.store(0, Ordering::Relaxed);
        self.forget_request();
        self.notices.store(0, Ordering::Relaxed);
        self.error.clear();
        self.is_troubled.store(false, Ordering::Relaxed);
        self.recovered_at.store(0, Ordering::Relaxed);
    }
}
