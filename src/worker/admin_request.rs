//! Errands to Kafka: a backend asks the relay of its database for something that only a Kafka client can
//! do, and waits for the answer.
//!
//! ```text
//!   Free ──take──▶ Writing ──ask──▶ Asked ──fetch──▶ Working ──answer──▶ Answered
//!     ▲               │               │                 │                    │
//!     └───────────────┴───────────────┴─ the backend leaves, at any time ────┘
//! ```
//! Each turn has a ticket of its own: an answer to a backend that has left is not taken for the next one's, and who
//! works on it sees that nobody waits any more.
//! A database has one errand at a time, and the server a few of them; who comes meanwhile waits for the turn, and may be
//! cancelled. Errands are what people type, not what applications do.

use std::ffi::CStr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use pgrx::prelude::*;
use pgrx::{AssertPGRXSharedMemory, PgAtomic, PgLwLock, pg_shmem_init};

use super::{process, slots};
use crate::pg::compat;

/// The most bytes of a request, and of an answer.
pub const LETTER_BYTES: usize = 128 * 1024;

/// Databases that can have an errand at the same time.
const PLACES: usize = 4;

// SAFETY: the names are this extension's own; atomics, and a condition variable that Postgres guards itself.
static MAILBOX: PgAtomic<AssertPGRXSharedMemory<Mailbox>> = unsafe { PgAtomic::new(c"event_outbox_mailbox") };
// SAFETY: as above; plain bytes.
static LETTERS: PgLwLock<AssertPGRXSharedMemory<Letters>> = unsafe { PgLwLock::new(c"event_outbox_letters") };

/// Requests the shared memory.
pub fn init() {
    pg_shmem_init!(MAILBOX = slots::shareable(Mailbox::default()));
    pg_shmem_init!(LETTERS = slots::shareable(Letters::default()));
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

/// Which turn at which place a request was made in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    place: usize,
    number: u32,
}

impl Ticket {
    fn at(self, stage: Stage) -> u32 {
        self.number * STAGES + stage as u32
    }
}

/// Tells, on any thread, whether somebody still waits for the answer.
#[derive(Clone, Copy)]
pub struct Interest {
    turn: &'static AtomicU32,
    working: u32,
}

impl Interest {
    /// Whether somebody does.
    #[must_use]
    pub fn is_there(self) -> bool {
        self.turn.load(Ordering::Acquire) == self.working
    }
}

/// The requests and answers, by place.
#[derive(Clone, Copy)]
struct Letters([Letter; PLACES]);

#[derive(Clone, Copy)]
struct Letter {
    length: usize,
    bytes: [u8; LETTER_BYTES],
}

impl Default for Letters {
    fn default() -> Self {
        Self([Letter { length: 0, bytes: [0; LETTER_BYTES] }; PLACES])
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
    /// The time was up before it was this request's turn.
    Queued,
    /// The time is up.
    TimedOut,
    /// The relay ended meanwhile.
    RelayEnded,
}

/// Where requests and answers lie.
pub struct Mailbox {
    places: [Place; PLACES],
    changed: pg_sys::ConditionVariable,
}

/// One errand at a time.
#[derive(Default)]
struct Place {
    /// The turn's number, and below it, in the lowest bits, the stage: both change as one.
    turn: AtomicU32,
    /// Process of the backend whose errand it is.
    owner: AtomicI32,
    /// Whose relay is asked, or was.
    database: AtomicU32,
}

impl Place {
    fn is_at(&self, stage: Stage) -> bool {
        self.turn.load(Ordering::Acquire) % STAGES == stage as u32
    }

    fn is_of(&self, database: u32) -> bool {
        self.database.load(Ordering::Relaxed) == database
    }

    fn advance(&self, from: Stage, to: Stage) -> bool {
        self.step(from, to).is_some()
    }

    /// Gives the number of the turn, if it was at `from`.
    fn step(&self, from: Stage, to: Stage) -> Option<u32> {
        let step = |turn: u32| (turn % STAGES == from as u32).then(|| turn - from as u32 + to as u32);
        let before = self.turn.fetch_update(Ordering::AcqRel, Ordering::Acquire, step).ok()?;
        Some(before / STAGES)
    }
}

impl Default for Mailbox {
    fn default() -> Self {
        let mut changed = pg_sys::ConditionVariable::default();
        // SAFETY: initialises a value that holds no address of its own, so that it may move afterwards.
        unsafe { pg_sys::ConditionVariableInit(&mut changed) };
        // What is all zeros is free.
        Self { places: Default::default(), changed }
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
        // Its end gives the place back, whatever happens here.
        let turn = self.take_turn(deadline).ok_or(Unanswered::Queued)?;
        let place = &self.places[turn.place];
        LETTERS.exclusive().0[turn.place].write(request);
        place.advance(Stage::Writing, Stage::Asked);
        call();
        let ended = || place.is_at(Stage::Answered) || place.is_at(Stage::Lost);
        match self.wait_until(c"EventOutboxKafkaAnswer", deadline, ended) {
            false => Err(Unanswered::TimedOut),
            true if place.is_at(Stage::Lost) => Err(Unanswered::RelayEnded),
            true => Ok(LETTERS.share().0[turn.place].read()),
        }
    }

    /// For the relay of this database: a request that it is to work on now, and then to answer.
    pub fn fetch(&self) -> Option<(Ticket, String)> {
        let here = this_database();
        let is_mine = |place: &Place| place.is_at(Stage::Asked) && place.is_of(here);
        let place = self.places.iter().position(is_mine)?;
        let number = self.places[place].step(Stage::Asked, Stage::Working)?;
        Some((Ticket { place, number }, LETTERS.share().0[place].read()))
    }

    /// Tells of a request that was fetched whether it is still wanted.
    #[must_use]
    pub fn interest(&'static self, ticket: Ticket) -> Interest {
        Interest { turn: &self.places[ticket.place].turn, working: ticket.at(Stage::Working) }
    }

    /// Answers the request that was fetched. One that is too long is replaced by `too_long`.
    pub fn answer(&self, ticket: Ticket, answer: &str, too_long: &str) {
        let turn = &self.places[ticket.place].turn;
        let mut letters = LETTERS.exclusive();
        if turn.load(Ordering::Acquire) == ticket.at(Stage::Working) {
            letters.0[ticket.place].write(if answer.len() > LETTER_BYTES { too_long } else { answer });
            // Should the backend leave at this moment, the next one writes its own letter when this lock is free.
            let _ = turn.compare_exchange(
                ticket.at(Stage::Working),
                ticket.at(Stage::Answered),
                Ordering::AcqRel,
                Ordering::Acquire,
            );
        }
        drop(letters);
        self.tell();
    }

    /// The relay of this database ends, and may not have answered what it fetched.
    pub fn leave_unanswered(&self) {
        let here = this_database();
        let lost = self.places.iter().filter(|place| place.is_of(here));
        if lost.filter(|place| place.advance(Stage::Working, Stage::Lost)).count() > 0 {
            self.tell();
        }
    }

    fn take_turn(&self, deadline: Instant) -> Option<Turn<'_>> {
        give_back_at_exit();
        let mut taken = None;
        self.wait_until(c"EventOutboxKafkaTurn", deadline, || {
            taken = self.take_place();
            taken.is_some()
        });
        taken.map(|place| Turn { mailbox: self, place })
    }

    /// A place for this database, if it has none yet and there is one.
    fn take_place(&self) -> Option<usize> {
        // One after the other.
        let _letters = LETTERS.exclusive();
        let here = this_database();
        if self.places.iter().any(|place| place.is_of(here) && !place.is_at(Stage::Free)) {
            return None;
        }
        let at = self.places.iter().position(|place| place.is_at(Stage::Free))?;
        let place = &self.places[at];
        place.database.store(here, Ordering::Relaxed);
        // SAFETY: a plain global of this process.
        place.owner.store(unsafe { pg_sys::MyProcPid }, Ordering::Relaxed);
        place.advance(Stage::Free, Stage::Writing);
        Some(at)
    }

    /// The backend is done with it.
    fn give_back(&self, place: &Place) {
        place.owner.store(0, Ordering::Relaxed);
        let next = (place.turn.load(Ordering::Acquire) / STAGES).wrapping_add(1) % (u32::MAX / STAGES);
        place.turn.store(next * STAGES + Stage::Free as u32, Ordering::Release);
        self.tell();
    }

    fn tell(&self) {
        // SAFETY: initialised with the mailbox, in shared memory.
        unsafe { pg_sys::ConditionVariableBroadcast(self.changed_ptr()) }
    }

    /// Whether `condition` came to hold before the deadline. Answers interrupts.
    fn wait_until(&self, name: &CStr, deadline: Instant, mut condition: impl FnMut() -> bool) -> bool {
        let event = compat::wait_event(name);
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

/// A place is this backend's while this lives. An ERROR unwinds, and ends it too.
struct Turn<'a> {
    mailbox: &'a Mailbox,
    place: usize,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.mailbox.give_back(&self.mailbox.places[self.place]);
    }
}

fn this_database() -> u32 {
    // SAFETY: a plain global of this process.
    unsafe { pg_sys::MyDatabaseId }.to_u32()
}

/// A backend that is terminated does not unwind: it gives its place back while it leaves shared memory.
fn give_back_at_exit() {
    static IS_REGISTERED: AtomicBool = AtomicBool::new(false);
    #[pg_guard]
    unsafe extern "C-unwind" fn give_back(_code: std::ffi::c_int, _argument: pg_sys::Datum) {
        // SAFETY: a plain global of this process.
        let me = unsafe { pg_sys::MyProcPid };
        let mine = |place: &&Place| place.owner.load(Ordering::Relaxed) == me;
        mailbox().places.iter().filter(mine).for_each(|place| mailbox().give_back(place));
    }
    if !IS_REGISTERED.swap(true, Ordering::Relaxed) {
        process::at_exit(give_back);
    }
}
