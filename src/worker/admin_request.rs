//! Owns administrative requests: a backend asks a worker of its database for something that only a Kafka
//! client can do, and waits for the answer.
//!
//! Runs in: the backend that asks, and the worker's main thread.
//!
//! ```text
//!   Free ──claim──▶ Writing ──ask──▶ Asked ──fetch──▶ Working ──answer──▶ Answered
//!     ▲               │               │                 │                    │
//!     └───────────────┴───────────────┴─ the backend leaves, at any time ────┘
//! ```
//! Each claim of a slot has a number of its own. So the next caller does not get the answer to a request
//! whose caller has left, and the worker sees that the caller has left. A worker has one request at a time,
//! and the server a few of them. Further callers wait for their turn, and can be cancelled. People make these
//! requests, applications do not.

use std::ffi::CStr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pgrx::prelude::*;
use pgrx::{AssertPGRXSharedMemory, PgAtomic, PgLwLock, pg_shmem_init};

use super::kind::{Kind, WorkerKey};
use super::process;
use crate::pg::backend;
use crate::pg::condition::Condition;
use crate::pg::shmem::shareable;

/// The most bytes of a request, and of an answer.
pub const BUFFER_BYTES: usize = 128 * 1024;

/// Workers that can have a request at the same time.
const SLOTS: usize = 4;

// SAFETY: the names are this extension's own; atomics, and a condition variable that Postgres guards itself.
static REQUESTS: PgAtomic<AssertPGRXSharedMemory<RequestSlots>> =
    unsafe { PgAtomic::new(c"event_outbox_requests") };
// SAFETY: as above; plain bytes.
static BUFFERS: PgLwLock<AssertPGRXSharedMemory<Buffers>> = unsafe { PgLwLock::new(c"event_outbox_buffers") };

/// Requests the shared memory.
pub fn init() {
    pg_shmem_init!(REQUESTS = shareable(RequestSlots::default()));
    pg_shmem_init!(BUFFERS = shareable(Buffers::default()));
}

/// The request slots.
pub fn requests() -> &'static RequestSlots {
    REQUESTS.get()
}

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Step {
    Free,
    Writing,
    Asked,
    Working,
    Answered,
    /// The worker ended before it could answer.
    Lost,
}

/// How many steps there are, or more.
const STEPS: u32 = 8;

/// Identifies a request: its slot, and the number of the claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestId {
    slot: usize,
    number: u32,
}

impl RequestId {
    fn at(self, step: Step) -> u32 {
        self.number * STEPS + step as u32
    }
}

/// Tells, on any thread, whether the caller still waits for the answer.
#[derive(Clone, Copy)]
pub struct Interest {
    claim: &'static AtomicU32,
    working: u32,
}

impl Interest {
    /// Whether the caller still waits.
    #[must_use]
    pub fn is_there(self) -> bool {
        self.claim.load(Ordering::Acquire) == self.working
    }
}

/// The requests and answers, by slot.
#[derive(Clone, Copy)]
struct Buffers([Buffer; SLOTS]);

#[derive(Clone, Copy)]
struct Buffer {
    length: usize,
    bytes: [u8; BUFFER_BYTES],
}

impl Default for Buffers {
    fn default() -> Self {
        Self([Buffer { length: 0, bytes: [0; BUFFER_BYTES] }; SLOTS])
    }
}

impl Buffer {
    fn write(&mut self, text: &str) {
        self.length = text.len();
        self.bytes[..text.len()].copy_from_slice(text.as_bytes());
    }

    fn read(&self) -> String {
        String::from_utf8_lossy(&self.bytes[..self.length]).into_owned()
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unanswered {
    /// The request has too many bytes: how many there may be.
    TooLong(usize),
    /// The time was up before it was this request's turn.
    Queued,
    /// The time is up.
    TimedOut,
    /// The worker ended meanwhile.
    WorkerEnded,
}

/// The requests to all workers.
#[derive(Default)]
pub struct RequestSlots {
    slots: [RequestSlot; SLOTS],
    changed: Condition,
}

/// One request at a time.
#[derive(Default)]
struct RequestSlot {
    /// The claim's number, and in the lowest bits the step: both change at once.
    claim: AtomicU32,
    /// The process id of the backend that made the request.
    owner: AtomicI32,
    /// The worker that is asked, or was, as [`WorkerKey`] has it.
    worker: AtomicU64,
}

impl RequestSlot {
    fn is_at(&self, step: Step) -> bool {
        self.claim.load(Ordering::Acquire) % STEPS == step as u32
    }

    fn is_for(&self, worker: WorkerKey) -> bool {
        self.worker.load(Ordering::Relaxed) == worker.to_bits()
    }

    fn advance(&self, from: Step, to: Step) -> bool {
        self.step(from, to).is_some()
    }

    /// The number of the claim, if it was at `from`.
    fn step(&self, from: Step, to: Step) -> Option<u32> {
        let step = |claim: u32| (claim % STEPS == from as u32).then(|| claim - from as u32 + to as u32);
        let before = self.claim.fetch_update(Ordering::AcqRel, Ordering::Acquire, step).ok()?;
        Some(before / STEPS)
    }
}

impl RequestSlots {
    /// Asks the worker of this kind in this database, which `wake` wakes, and waits for its answer. Can be
    /// cancelled.
    ///
    /// # Errors
    /// [`Unanswered`].
    pub fn ask(
        &self,
        kind: Kind,
        request: &str,
        timeout: Duration,
        wake: impl Fn(),
    ) -> Result<String, Unanswered> {
        if request.len() > BUFFER_BYTES {
            return Err(Unanswered::TooLong(BUFFER_BYTES));
        }
        let deadline = Instant::now() + timeout;
        // Dropping the claim gives the slot back, whatever happens here.
        let claim = self.claim(WorkerKey::here(kind), deadline).ok_or(Unanswered::Queued)?;
        let slot = &self.slots[claim.slot];
        BUFFERS.exclusive().0[claim.slot].write(request);
        slot.advance(Step::Writing, Step::Asked);
        wake();
        let ended = || slot.is_at(Step::Answered) || slot.is_at(Step::Lost);
        match self.wait_until(c"EventOutboxKafkaAnswer", deadline, ended) {
            false => Err(Unanswered::TimedOut),
            true if slot.is_at(Step::Lost) => Err(Unanswered::WorkerEnded),
            true => Ok(BUFFERS.share().0[claim.slot].read()),
        }
    }

    /// For the worker of this kind in this database: a request to work on now, and then to answer.
    pub fn fetch(&self, kind: Kind) -> Option<(RequestId, String)> {
        let worker = WorkerKey::here(kind);
        let is_mine = |slot: &RequestSlot| slot.is_at(Step::Asked) && slot.is_for(worker);
        let slot = self.slots.iter().position(is_mine)?;
        let number = self.slots[slot].step(Step::Asked, Step::Working)?;
        Some((RequestId { slot, number }, BUFFERS.share().0[slot].read()))
    }

    /// Tells whether the caller of a fetched request still waits.
    #[must_use]
    pub fn interest(&'static self, id: RequestId) -> Interest {
        Interest { claim: &self.slots[id.slot].claim, working: id.at(Step::Working) }
    }

    /// Answers a fetched request. `too_long` replaces an answer that does not fit.
    pub fn answer(&self, id: RequestId, answer: &str, too_long: &str) {
        let claim = &self.slots[id.slot].claim;
        let mut buffers = BUFFERS.exclusive();
        if claim.load(Ordering::Acquire) == id.at(Step::Working) {
            buffers.0[id.slot].write(if answer.len() > BUFFER_BYTES { too_long } else { answer });
            // If the backend leaves at this moment, the next caller writes its own text once this lock is
            // free.
            let _ = claim.compare_exchange(
                id.at(Step::Working),
                id.at(Step::Answered),
                Ordering::AcqRel,
                Ordering::Acquire,
            );
        }
        drop(buffers);
        self.broadcast();
    }

    /// The worker of this kind in this database ends, and may not have answered a request that it fetched.
    pub fn leave_unanswered(&self, kind: Kind) {
        let worker = WorkerKey::here(kind);
        let lost = self.slots.iter().filter(|slot| slot.is_for(worker));
        if lost.filter(|slot| slot.advance(Step::Working, Step::Lost)).count() > 0 {
            self.broadcast();
        }
    }

    fn claim(&self, worker: WorkerKey, deadline: Instant) -> Option<Claim<'_>> {
        give_back_at_exit();
        let mut taken = None;
        self.wait_until(c"EventOutboxKafkaTurn", deadline, || {
            taken = self.take_slot(worker);
            taken.is_some()
        });
        taken.map(|slot| Claim { requests: self, slot })
    }

    /// A free slot for a request to this worker, unless there is one already.
    fn take_slot(&self, worker: WorkerKey) -> Option<usize> {
        let _lock = BUFFERS.exclusive();
        if self.slots.iter().any(|slot| slot.is_for(worker) && !slot.is_at(Step::Free)) {
            return None;
        }
        let at = self.slots.iter().position(|slot| slot.is_at(Step::Free))?;
        let slot = &self.slots[at];
        slot.worker.store(worker.to_bits(), Ordering::Relaxed);
        slot.owner.store(backend::pid(), Ordering::Relaxed);
        slot.advance(Step::Free, Step::Writing);
        Some(at)
    }

    /// Frees the slot; the backend is done with it.
    fn give_back(&self, slot: &RequestSlot) {
        slot.owner.store(0, Ordering::Relaxed);
        let next = (slot.claim.load(Ordering::Acquire) / STEPS).wrapping_add(1) % (u32::MAX / STEPS);
        slot.claim.store(next * STEPS + Step::Free as u32, Ordering::Release);
        self.broadcast();
    }

    fn broadcast(&self) {
        self.changed.broadcast();
    }

    /// Whether `condition` came to hold before the deadline. Answers interrupts.
    fn wait_until(&self, name: &CStr, deadline: Instant, mut condition: impl FnMut() -> bool) -> bool {
        let wait = self.changed.wait(name);
        loop {
            if condition() {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            wait.sleep(left);
        }
    }
}

/// Keeps a slot for this backend. An ERROR unwinds, and so drops it too.
struct Claim<'a> {
    requests: &'a RequestSlots,
    slot: usize,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.requests.give_back(&self.requests.slots[self.slot]);
    }
}

/// A terminated backend does not unwind: it gives its slot back while it detaches from shared memory.
fn give_back_at_exit() {
    static IS_REGISTERED: AtomicBool = AtomicBool::new(false);
    #[pg_guard]
    unsafe extern "C-unwind" fn give_back(_code: std::ffi::c_int, _argument: pg_sys::Datum) {
        let mine = |slot: &&RequestSlot| slot.owner.load(Ordering::Relaxed) == backend::pid();
        requests().slots.iter().filter(mine).for_each(|slot| requests().give_back(slot));
    }
    if !IS_REGISTERED.swap(true, Ordering::Relaxed) {
        process::at_exit(give_back);
    }
}
