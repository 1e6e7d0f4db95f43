//! Shared memory: the roster of relays, how to wake each, and what each says of itself.
//!
//! Written by relays, the launcher and, at commit, by every backend; so the parts that a commit
//! touches are atomics, which can neither block nor raise an error. Only the reservation of a slot
//! and the text of the last error are behind a lock.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicPtr, AtomicU32, Ordering};
use std::time::Duration;

use event_outbox_policy::worker::allowance::Allowance;
use pgrx::prelude::*;
use pgrx::{AssertPGRXSharedMemory, PgAtomic, PgLwLock, pg_shmem_init};

use super::metrics::Figures;
use super::state::{Connection, Dated, State};

/// The most databases of one server that can have a relay.
pub const MAX_RELAYS: usize = 64;

/// How often a relay begins anew because it is asked to. Further requests are one, which waits while the relay works on.
const RESTARTS: Allowance = Allowance { burst: 10, period: Duration::from_secs(10) };

/// The most bytes of an error that the status shows.
const MAX_ERROR_BYTES: usize = 512;

// SAFETY: the names are this extension's own. The types below hold atomics, plain numbers and, in
// latches, pointers into the main shared memory, which every process maps at the same address.
static ROSTER: PgAtomic<AssertPGRXSharedMemory<Roster>> = unsafe { PgAtomic::new(c"event_outbox_roster") };
// SAFETY: as above.
static ERRORS: PgLwLock<AssertPGRXSharedMemory<Errors>> = unsafe { PgLwLock::new(c"event_outbox_errors") };

/// Requests the shared memory.
pub fn init() {
    pg_shmem_init!(ROSTER = shareable(Roster::default()));
    pg_shmem_init!(ERRORS = shareable(Errors::default()));
}

/// A value for shared memory.
pub(super) fn shareable<T>(value: T) -> AssertPGRXSharedMemory<T> {
    // SAFETY: what this extension shares are atomics, numbers, bytes, and in latches and condition variables pointers
    // into the main shared memory: nothing that belongs to one process.
    unsafe { AssertPGRXSharedMemory::new(value) }
}

/// The roster of relays.
pub fn roster() -> &'static Roster {
    ROSTER.get()
}

/// A latch that another process sleeps on, or none.
#[derive(Default)]
pub struct Bell {
    latch: AtomicPtr<pg_sys::Latch>,
    rung: AtomicBool,
}

impl Bell {
    /// Wakes the sleeper, unless it has been told already and has not looked yet. Safe at commit: an
    /// atomic and a latch, nothing that can fail.
    pub fn ring(&self) {
        if !self.rung.load(Ordering::SeqCst) && !self.rung.swap(true, Ordering::SeqCst) {
            self.rouse();
        }
    }

    /// Has nobody wake the sleeper for what it looks for soon by itself. As if it had been told.
    pub fn mute(&self) {
        self.rung.store(true, Ordering::SeqCst);
    }

    /// Wakes the sleeper, whatever it has been told: for orders that it looks at each time it wakes.
    pub fn rouse(&self) {
        let latch = self.latch.load(Ordering::Acquire);
        if !latch.is_null() {
            // SAFETY: a process latch lies in shared memory as long as the server runs. Should its
            // process have ended, another one wakes once in vain.
            unsafe { pg_sys::SetLatch(latch) }
        }
    }

    /// Whether it has rung since the last answer. What rang is looked for after this call.
    pub fn answer(&self) -> bool {
        self.rung.swap(false, Ordering::SeqCst)
    }

    /// Whether it has rung and has not been answered.
    pub fn is_rung(&self) -> bool {
        self.rung.load(Ordering::SeqCst)
    }

    /// Makes this process the sleeper.
    pub fn hang(&self) {
        // SAFETY: reads the pointer to this process' latch, which is set before any extension code runs.
        self.latch.store(unsafe { pg_sys::MyLatch }, Ordering::Release);
    }

    /// Takes the bell down when its process ends. Whether it has rung stays to be seen.
    pub fn take_down(&self) {
        self.latch.store(std::ptr::null_mut(), Ordering::Release);
    }
}

/// Where a relay's life stands. Backends and the relay itself move it; the launcher acts on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Phase {
    /// Asked for: the launcher starts it.
    Wanted,
    /// Being started by the postmaster.
    Starting,
    /// Running.
    Running,
    /// Ended in order, by a signal: to be started again in a moment.
    Ended,
    /// Ended because there is nothing to relay: the slot becomes free.
    Gone,
    /// Left so that a command can have the database to itself: stays away until called back.
    Away,
    /// Ended by an error: to be started again after a while, longer each time.
    Failed,
}

impl Phase {
    fn from_u32(value: u32) -> Self {
        match value {
            0 => Self::Wanted,
            1 => Self::Starting,
            2 => Self::Running,
            4 => Self::Gone,
            5 => Self::Away,
            6 => Self::Failed,
            _ => Self::Ended,
        }
    }
}

/// What others ask of a running relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Request {
    /// Nothing.
    None,
    /// End and come back at once, to read the database's settings anew.
    Restart,
    /// End, and stay away until called back.
    Leave,
}

/// One database's relay. Times are in microseconds since 1970.
#[derive(Default)]
pub struct Slot {
    /// The database's oid; 0 for a free slot.
    database: AtomicU32,
    phase: AtomicU32,
    request: AtomicU32,
    /// What is remembered of its restarts; see [`Allowance`].
    restarts: AtomicI64,
    /// Process of the relay; 0 if none runs.
    pub pid: AtomicI32,
    /// Wakes the relay.
    pub bell: Bell,
    /// Rows that the relay has read before have changed: it is to read the table from the beginning.
    pub reread: AtomicBool,
    /// The database was paused or resumed: the relay is to find out which.
    pub paused_changed: AtomicBool,
    state: Dated,
    connection: Dated,
    /// The error shown is one that lasts.
    is_troubled: AtomicBool,
    /// When the last one was over, in microseconds since 1970; 0 if none was.
    recovered_at: AtomicI64,
    /// What the relay says of itself in numbers.
    pub figures: Figures,
}

impl Slot {
    /// The database it belongs to.
    pub fn database(&self) -> pg_sys::Oid {
        pg_sys::Oid::from(self.database.load(Ordering::SeqCst))
    }

    /// Where its life stands.
    pub fn phase(&self) -> Phase {
        Phase::from_u32(self.phase.load(Ordering::Acquire))
    }

    /// Moves its life on.
    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u32, Ordering::Release);
    }

    /// Moves its life on if it stands at `from`.
    pub fn advance(&self, from: Phase, to: Phase) -> bool {
        self.phase.compare_exchange(from as u32, to as u32, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Asks something of the relay, and wakes it, also where it has no use for its bell at present.
    pub fn ask(&self, request: Request) {
        self.request.store(request as u32, Ordering::Release);
        self.bell.rouse();
    }

    /// What was asked last.
    pub fn request(&self) -> Request {
        match self.request.load(Ordering::Acquire) {
            1 => Request::Restart,
            2 => Request::Leave,
            _ => Request::None,
        }
    }

    /// What was asked last and is to be done now.
    pub fn order(&self) -> Request {
        match self.request() {
            Request::Restart if self.next_restart() > crate::pg::now() => Request::None,
            request => request,
        }
    }

    /// When to restart, if that was asked.
    pub fn restart_date(&self) -> Option<i64> {
        (self.request() == Request::Restart).then(|| self.next_restart())
    }

    /// Notes that it is done.
    pub fn count_restart(&self) {
        let arrival = self.restarts.load(Ordering::Relaxed);
        self.restarts.store(RESTARTS.done(arrival, crate::pg::now()), Ordering::Relaxed);
    }

    fn next_restart(&self) -> i64 {
        RESTARTS.next(self.restarts.load(Ordering::Relaxed))
    }

    /// Forgets what was asked.
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
        if let Some(at) = roster().position(self) {
            ERRORS.exclusive().texts[at].set(text, crate::pg::now());
            self.is_troubled.store(true, Ordering::Relaxed);
        }
    }

    /// Shows that the trouble is over, if there was any.
    pub fn show_recovery(&self) {
        if self.is_troubled.load(Ordering::Relaxed) && self.is_troubled.swap(false, Ordering::Relaxed) {
            self.recovered_at.store(crate::pg::now(), Ordering::Relaxed);
        }
    }

    /// When the trouble of the error shown was over, in microseconds since 1970; 0 if it is not.
    pub fn recovered_at(&self) -> i64 {
        if self.is_troubled.load(Ordering::Relaxed) { 0 } else { self.recovered_at.load(Ordering::Relaxed) }
    }

    /// The last error shown and when, if any.
    pub fn error(&self) -> Option<(String, i64)> {
        let at = roster().position(self)?;
        ERRORS.share().texts[at].get()
    }

    fn clear(&self) {
        self.pid.store(0, Ordering::Relaxed);
        self.restarts.store(0, Ordering::Relaxed);
        self.forget_request();
        self.state.clear();
        self.connection.clear();
        self.is_troubled.store(false, Ordering::Relaxed);
        self.recovered_at.store(0, Ordering::Relaxed);
        self.figures.clear();
    }
}

/// All relays, and the launcher.
pub struct Roster {
    /// Wakes the launcher.
    pub launcher: Bell,
    survey: AtomicBool,
    slots: [Slot; MAX_RELAYS],
    settled: pg_sys::ConditionVariable,
}

impl Default for Roster {
    fn default() -> Self {
        let mut settled = pg_sys::ConditionVariable::default();
        // SAFETY: initialises a value that holds no address of its own, so that it may move afterwards.
        unsafe { pg_sys::ConditionVariableInit(&mut settled) };
        Self {
            launcher: Bell::default(),
            survey: AtomicBool::new(false),
            slots: [const { None::<Slot> }; MAX_RELAYS].map(|_| Slot::default()),
            settled,
        }
    }
}

impl Roster {
    /// All slots in use.
    pub fn taken(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().filter(|slot| slot.database() != pg_sys::InvalidOid)
    }

    /// The slot of a database.
    pub fn find(&self, database: pg_sys::Oid) -> Option<&Slot> {
        self.taken().find(|slot| slot.database() == database)
    }

    /// The slot of a database, reserved now if it has none; `None` if all are taken.
    pub fn reserve(&self, database: pg_sys::Oid) -> Option<&Slot> {
        if let Some(slot) = self.find(database) {
            return Some(slot);
        }
        let mut errors = ERRORS.exclusive();
        if let Some(slot) = self.find(database) {
            return Some(slot);
        }
        let (at, slot) =
            self.slots.iter().enumerate().find(|(_, slot)| slot.database() == pg_sys::InvalidOid)?;
        slot.clear();
        errors.texts[at] = ErrorText::default();
        slot.enter(Phase::Wanted);
        slot.database.store(database.to_u32(), Ordering::Release);
        Some(slot)
    }

    /// Gives a slot back.
    ///
    /// A commit may ring its bell at this very moment. It rings first and looks at the database then; here the
    /// database goes first and the bell is looked at then: so one of the two sees the other.
    pub fn release(&self, slot: &Slot) {
        let _errors = ERRORS.exclusive();
        slot.database.store(0, Ordering::SeqCst);
        if slot.bell.is_rung() {
            self.survey.store(true, Ordering::SeqCst);
        }
    }

    /// Tells the relay of a database to look, at commit; where there is none, tells the launcher.
    pub fn wake(&self, slot: &Slot, database: pg_sys::Oid) {
        slot.bell.ring();
        if slot.database() != database {
            self.survey();
        } else if !matches!(slot.phase(), Phase::Starting | Phase::Running) {
            self.launcher.ring();
        }
    }

    /// Has the launcher look into all databases, whichever it is that may need a relay now. Safe at commit.
    pub fn survey(&self) {
        self.survey.store(true, Ordering::SeqCst);
        self.launcher.ring();
    }

    /// Whether that has been asked for, and is not done yet.
    pub fn survey_is_pending(&self) -> bool {
        self.survey.load(Ordering::SeqCst)
    }

    /// Whether that has been asked for since the last call.
    pub fn is_to_be_surveyed(&self) -> bool {
        self.survey.swap(false, Ordering::SeqCst)
    }

    /// Wakes those who wait for events to be published.
    pub fn tell_settled(&self) {
        // SAFETY: initialised with the roster, in shared memory.
        unsafe { pg_sys::ConditionVariableBroadcast(self.settled_ptr()) }
    }

    /// The condition that [`tell_settled`](Self::tell_settled) signals.
    pub fn settled_ptr(&self) -> *mut pg_sys::ConditionVariable {
        // Postgres guards the inside with a spin lock of its own.
        std::ptr::from_ref(&self.settled).cast_mut()
    }

    fn position(&self, slot: &Slot) -> Option<usize> {
        self.slots.iter().position(|candidate| std::ptr::eq(candidate, slot))
    }
}

/// The last error of each slot.
struct Errors {
    texts: [ErrorText; MAX_RELAYS],
}

impl Default for Errors {
    fn default() -> Self {
        Self { texts: [ErrorText::default(); MAX_RELAYS] }
    }
}

#[derive(Clone, Copy)]
struct ErrorText {
    at: i64,
    length: usize,
    bytes: [u8; MAX_ERROR_BYTES],
}

impl Default for ErrorText {
    fn default() -> Self {
        Self { at: 0, length: 0, bytes: [0; MAX_ERROR_BYTES] }
    }
}

impl ErrorText {
    fn set(&mut self, text: &str, now: i64) {
        let length =
            (0..=text.len().min(MAX_ERROR_BYTES)).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        self.bytes[..length].copy_from_slice(&text.as_bytes()[..length]);
        self.length = length;
        self.at = now;
    }

    fn get(&self) -> Option<(String, i64)> {
        (self.at != 0).then(|| (String::from_utf8_lossy(&self.bytes[..self.length]).into_owned(), self.at))
    }
}
