//! Errands to Kafka: a backend asks the relay of its database for something that only a Kafka client can
//! do, and waits for the answer.
//!
//! ```text
//!   Free ──take──▶ Writing ──ask──▶ Asked ──fetch──▶ Working ──answer──▶ Answered
//!     ▲               │               │                 │                    │
//!     └───────────────┴───────────────┴─ the backend leaves, at any time ────┘
//! ```
//! Each turn has a ticket of its own: an answer to a backend that has left is not taken for the next one's.
//! One errand at a time in the whole server; who comes meanwhile waits for the turn, and may be cancelled. Errands are
//! what people type, not what applications do.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use pgrx::prelude::*;
use pgrx::{AssertPGRXSharedMemory, PgAtomic, PgLwLock, pg_shmem_init};

use super::{compat, process, shared};

/// The most bytes of a request, and of an answer.
pub const LETTER_BYTES: usize = 128 * 1024;

// SAFETY: the names are this extension's own; atomics, and a condition variable that Postgres guards itself.
static MAILBOX: PgAtomic<AssertPGRXSharedMemory<Mailbox>> = unsafe { PgAtomic::new(c"event_outbox_mailbox") };
// SAFETY: as above; plain bytes.
static LETTER: PgLwLock<AssertPGRXSharedMemory<Letter>> = unsafe { PgLwLock::new(c"event_outbox_letter") };

/// Requests the shared memory.
pub fn init() {
    pg_shmem_init!(MAILBOX = shared::shareable(Mailbox::default()));
    pg_shmem_init!(LETTER = shared::shareable(Letter::default()));
}

/// The mailbox.
pub fn mailbox() -> &'static Mailbox {
    MAILBOX.get()
}

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Stage {
    Free,
    Writing,
    Asked,
    Working,
    Answered,
    /// The relay ended before it could answer.
    Lost,
}

/// How many stages there are, or more.
const STAGES: u32 = 8;

/// Which turn a request was made in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(u32);

impl Ticket {
    fn at(self, stage: Stage) -> u32 {
        self.0 * STAGES + stage as u32
    }
}

#[derive(Clone, Copy)]
struct Letter {
    length: usize,
    bytes: [u8; LETTER_BYTES],
}

impl Default for Letter {
    fn default() -> Self {
        Self { length: 0, bytes: [0; LETTER_BYTES] }
    }
}

impl Letter {
    fn write(&mut self, text: &str) {
        self.length = text.len();
        self.bytes[..text.len()].copy_from_slice(text.as_bytes());
    }

    fn read(&self) -> String {
        String::from_utf8_lossy(&self.bytes[..self.length]).into_owned()
    }
}

/// Why an errand brought no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unanswered {
    /// The request has too many bytes: how many there may be.
    TooLong(usize),
    /// The time is up.
    TimedOut,
    /// The relay ended meanwhile.
    RelayEnded,
}

/// Where requests and answers lie.
pub struct Mailbox {
    /// The ticket, and below it, in the lowest bits, the stage: both change as one.
    turn: AtomicU32,
    /// Process of the backend whose errand it is.
    owner: AtomicI32,
    /// Whose relay is asked.
    database: AtomicU32,
    changed: pg_sys::ConditionVariable,
}

impl Default for Mailbox {
    fn default() -> Self {
        let mut changed = pg_sys::ConditionVariable::default();
        // SAFETY: initialises a value that holds no address of its own, so that it may move afterwards.
        unsafe { pg_sys::ConditionVariableInit(&mut changed) };
        Self {
            turn: AtomicU32::new(Stage::Free as u32),
            owner: AtomicI32::new(0),
            database: AtomicU32::new(0),
            changed,
        }
    }
}

impl Mailbox {
    /// Asks the relay of this database, which `call` wakes, and waits for its answer. Can be cancelled.
    ///
    /// # Errors
    /// [`Unanswered`].
    pub fn ask(&self, request: &str, timeout: Duration, call: impl Fn()) -> Result<String, Unanswered> {
        if request.len() > LETTER_BYTES {
            return Err(Unanswered::TooLong(LETTER_BYTES));
        }
        let deadline = Instant::now() + timeout;
        // Its end gives the mailbox back, whatever happens here.
        let _turn = self.take_turn(deadline).ok_or(Unanswered::TimedOut)?;
        LETTER.exclusive().write(request);
        // SAFETY: a plain global of this process.
        self.database.store(unsafe { pg_sys::MyDatabaseId }.to_u32(), Ordering::Relaxed);
        self.advance(Stage::Writing, Stage::Asked);
        call();
        let ended = || self.is_at(Stage::Answered) || self.is_at(Stage::Lost);
        match self.wait_until(deadline, ended) {
            false => Err(Unanswered::TimedOut),
            true if self.is_at(Stage::Lost) => Err(Unanswered::RelayEnded),
            true => Ok(LETTER.share().read()),
        }
    }

    /// For the relay of this database: a request that it is to work on now, and then to answer.
    pub fn fetch(&self) -> Option<(Ticket, String)> {
        // SAFETY: a plain global of this process.
        let here = unsafe { pg_sys::MyDatabaseId }.to_u32();
        let is_mine = self.is_at(Stage::Asked) && self.database.load(Ordering::Relaxed) == here;
        let turn = is_mine.then(|| self.step(Stage::Asked, Stage::Working)).flatten()?;
        Some((Ticket(turn / STAGES), LETTER.share().read()))
    }

    /// Answers the request that was fetched. One that is too long is replaced by `too_long`.
    pub fn answer(&self, ticket: Ticket, answer: &str, too_long: &str) {
        let mut letter = LETTER.exclusive();
        if self.turn.load(Ordering::Acquire) == ticket.at(Stage::Working) {
            letter.write(if answer.len() > LETTER_BYTES { too_long } else { answer });
            // Should the backend leave at this moment, the next one writes its own letter when this lock is free.
            let _ = self.turn.compare_exchange(
                ticket.at(Stage::Working),
                ticket.at(Stage::Answered),
                Ordering::AcqRel,
                Ordering::Acquire,
            );
        }
        drop(letter);
        self.tell();
    }

    /// The relay of this database ends, and may not have answered what it fetched.
    pub fn leave_unanswered(&self) {
        // SAFETY: a plain global of this process.
        if self.database.load(Ordering::Relaxed) != unsafe { pg_sys::MyDatabaseId }.to_u32() {
            return;
        }
        self.advance(Stage::Working, Stage::Lost);
        self.tell();
    }

    fn take_turn(&self, deadline: Instant) -> Option<Turn<'_>> {
        give_back_at_exit();
        self.wait_until(deadline, || self.advance(Stage::Free, Stage::Writing)).then(|| {
            // SAFETY: a plain global of this process.
            self.owner.store(unsafe { pg_sys::MyProcPid }, Ordering::Relaxed);
            Turn(self)
        })
    }

    /// The backend is done with it.
    fn give_back(&self) {
        self.owner.store(0, Ordering::Relaxed);
        let next = (self.turn.load(Ordering::Acquire) / STAGES).wrapping_add(1) % (u32::MAX / STAGES);
        self.turn.store(Ticket(next).at(Stage::Free), Ordering::Release);
        self.tell();
    }

    fn is_at(&self, stage: Stage) -> bool {
        self.turn.load(Ordering::Acquire) % STAGES == stage as u32
    }

    fn advance(&self, from: Stage, to: Stage) -> bool {
        self.step(from, to).is_some()
    }

    /// Gives the turn as it was before, if it was at `from`.
    fn step(&self, from: Stage, to: Stage) -> Option<u32> {
        let step = |turn: u32| (turn % STAGES == from as u32).then(|| turn - from as u32 + to as u32);
        self.turn.fetch_update(Ordering::AcqRel, Ordering::Acquire, step).ok()
    }

    fn tell(&self) {
        // SAFETY: initialised with the mailbox, in shared memory.
        unsafe { pg_sys::ConditionVariableBroadcast(self.changed_ptr()) }
    }

    /// Whether `condition` came to hold before the deadline. Answers interrupts.
    fn wait_until(&self, deadline: Instant, condition: impl Fn() -> bool) -> bool {
        let event = compat::wait_event(c"EventOutboxKafkaAnswer");
        // SAFETY: the condition variable lies in shared memory; prepare and cancel are paired, and an ERROR
        // between them is cleaned up by the end of the transaction.
        unsafe { pg_sys::ConditionVariablePrepareToSleep(self.changed_ptr()) };
        let holds = loop {
            if condition() {
                break true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break false;
            }
            let millis = i64::try_from(left.as_millis().max(1)).unwrap_or(i64::MAX);
            // SAFETY: as above.
            unsafe {
                pg_sys::ConditionVariableTimedSleep(self.changed_ptr(), millis, event);
            }
        };
        // SAFETY: as above.
        unsafe { pg_sys::ConditionVariableCancelSleep() };
        holds
    }

    fn changed_ptr(&self) -> *mut pg_sys::ConditionVariable {
        // Postgres guards the inside with a spin lock of its own.
        std::ptr::from_ref(&self.changed).cast_mut()
    }
}

/// The mailbox is this backend's while this lives. An ERROR unwinds, and ends it too.
struct Turn<'a>(&'a Mailbox);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.give_back();
    }
}

/// A backend that is terminated does not unwind: it gives the mailbox back while it leaves shared memory.
fn give_back_at_exit() {
    static IS_REGISTERED: AtomicBool = AtomicBool::new(false);
    #[pg_guard]
    unsafe extern "C-unwind" fn give_back(_code: std::ffi::c_int, _argument: pg_sys::Datum) {
        // SAFETY: a plain global of this process.
        if mailbox().owner.load(Ordering::Relaxed) == unsafe { pg_sys::MyProcPid } {
            mailbox().give_back();
        }
    }
    if !IS_REGISTERED.swap(true, Ordering::Relaxed) {
        process::at_exit(give_back);
    }
}
