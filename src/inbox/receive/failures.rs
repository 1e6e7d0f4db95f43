//! Notes of what was received and not acknowledged, because the transaction was rolled back. Runs in: backends leave them at the
//! end of a transaction, where nothing may fail; the ingest worker takes them.
//!
//! There is room for a fixed number. A note for which none is left, beside those that nobody will take, is lost: the events are
//! received again all the same, but this failure is not counted.

use std::sync::atomic::{AtomicI32, AtomicI64, AtomicU8, AtomicU32, AtomicUsize, Ordering};

use pgrx::pg_shmem_init;
use pgrx::prelude::*;

use super::last_error::MAX_ERROR_BYTES;
use crate::pg::shmem::SharedArray;
use crate::worker::at_commit;
use crate::worker::kind::{Kind, Notice, WorkerKey};
use crate::worker::slots;

/// The most notes at a time.
const PLACES: usize = 512;

/// The worker that takes the notes.
const WORKER: Kind = Kind::new(1);

/// What it is told.
pub const NOTICE: Notice = Notice::new(1);

static NOTES: SharedArray<Place> = SharedArray::new(c"event_outbox_inbox_failures", || PLACES);

/// Requests the shared memory.
pub fn init() {
    pg_shmem_init!(NOTES = ());
}

/// Events of a lane that were received and not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The subscription.
    pub subscription_id: i32,
    /// The lane.
    pub lane: u16,
    /// The number of the lane's state on which the receiver built.
    pub based_on: i64,
    /// The position of the last event.
    pub upto: i64,
    /// The number of events that failed together. One that failed alone is to blame.
    pub count: u32,
    /// The position of the one event, if it had waited in `inbox.retry`.
    pub retried: Option<i64>,
    /// Why, in words.
    pub error: String,
    /// What happened.
    pub cause: Cause,
}

/// Why events were not acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Their transaction was rolled back, or their lease has expired.
    GivenUp,
    /// The server crashed.
    Crash(Crash),
}

/// A record of a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crash {
    /// Its place among those that are left.
    pub place: usize,
    /// Whether the one event is to blame. Otherwise all of them are suspect.
    pub is_to_blame: bool,
    /// Whether any of them had waited for a retry.
    pub has_waited: bool,
}

/// The same without an allocation.
#[derive(Debug, Clone, Copy)]
pub struct Note<'a> {
    /// As in [`Failure`].
    pub subscription_id: i32,
    /// As in [`Failure`].
    pub lane: u16,
    /// As in [`Failure`].
    pub based_on: i64,
    /// As in [`Failure`].
    pub upto: i64,
    /// As in [`Failure`].
    pub count: u32,
    /// As in [`Failure`].
    pub retried: Option<i64>,
    /// As in [`Failure`]; its beginning is kept.
    pub error: &'a [u8],
}

const FREE: u8 = 0;
const BUSY: u8 = 1;
const FULL: u8 = 2;

/// A place for a note. Whoever has made it busy has it alone.
struct Place {
    state: AtomicU8,
    database: AtomicU32,
    subscription_id: AtomicI32,
    lane: AtomicU32,
    based_on: AtomicI64,
    upto: AtomicI64,
    count: AtomicU32,
    is_retry: AtomicU8,
    retried: AtomicI64,
    length: AtomicUsize,
    error: [AtomicU8; MAX_ERROR_BYTES],
}

impl Default for Place {
    fn default() -> Self {
        Self {
            state: AtomicU8::new(FREE),
            database: AtomicU32::new(0),
            subscription_id: AtomicI32::new(0),
            lane: AtomicU32::new(0),
            based_on: AtomicI64::new(0),
            upto: AtomicI64::new(0),
            count: AtomicU32::new(0),
            is_retry: AtomicU8::new(0),
            retried: AtomicI64::new(0),
            length: AtomicUsize::new(0),
            error: [const { AtomicU8::new(0) }; MAX_ERROR_BYTES],
        }
    }
}

impl Place {
    fn advance(&self, from: u8, to: u8) -> bool {
        self.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    fn write(&self, database: pg_sys::Oid, note: Note<'_>) {
        let order = Ordering::Relaxed;
        self.database.store(database.to_u32(), order);
        self.subscription_id.store(note.subscription_id, order);
        self.lane.store(note.lane.into(), order);
        self.based_on.store(note.based_on, order);
        self.upto.store(note.upto, order);
        self.count.store(note.count, order);
        self.is_retry.store(note.retried.is_some().into(), order);
        self.retried.store(note.retried.unwrap_or(0), order);
        let length = note.error.len().min(MAX_ERROR_BYTES);
        self.length.store(length, order);
        self.error.iter().zip(&note.error[..length]).for_each(|(kept, byte)| kept.store(*byte, order));
    }

    fn read(&self) -> Failure {
        let order = Ordering::Relaxed;
        let bytes = self.error.iter().take(self.length.load(order)).map(|byte| byte.load(order));
        let bytes: Vec<u8> = bytes.collect();
        Failure {
            subscription_id: self.subscription_id.load(order),
            lane: u16::try_from(self.lane.load(order)).unwrap_or(0),
            based_on: self.based_on.load(order),
            upto: self.upto.load(order),
            count: self.count.load(order),
            retried: (self.is_retry.load(order) != 0).then(|| self.retried.load(order)),
            error: text(&bytes),
            cause: Cause::GivenUp,
        }
    }
}

/// The beginning of a text, whose last character may have been cut.
fn text(bytes: &[u8]) -> String {
    let whole = bytes.utf8_chunks().next().map_or("", |chunk| chunk.valid());
    whole.to_owned()
}

/// Has the worker started at commit, if this database has none: it may be a copy of one that had.
pub fn require_worker() {
    if slots::all().find(WorkerKey::here(WORKER)).is_none() {
        at_commit::wake(WORKER, Notice::NONE);
    }
}

/// Leaves a note for the worker of `database`, and wakes it. Cannot fail.
pub fn leave(database: pg_sys::Oid, note: Note<'_>) {
    let places = || NOTES.elements().iter();
    // Nobody takes the notes for a database that was dropped.
    let is_abandoned = |place: &&Place| {
        let database = pg_sys::Oid::from(place.database.load(Ordering::Relaxed));
        slots::all().find(WorkerKey { database, kind: WORKER }).is_none()
    };
    let free = places().find(|place| place.advance(FREE, BUSY));
    if let Some(place) =
        free.or_else(|| places().filter(is_abandoned).find(|place| place.advance(FULL, BUSY)))
    {
        place.write(database, note);
        place.state.store(FULL, Ordering::Release);
    }
    if let Some(slot) = slots::all().find(WorkerKey { database, kind: WORKER }) {
        slot.notify(NOTICE);
    }
}

fn is_for(place: &Place, database: pg_sys::Oid) -> bool {
    place.state.load(Ordering::Acquire) == FULL && place.database.load(Ordering::Relaxed) == database.to_u32()
}

/// Whether there are notes for the worker of `database`.
#[must_use]
pub fn any(database: pg_sys::Oid) -> bool {
    NOTES.elements().iter().any(|place| is_for(place, database))
}

/// Takes the notes for the worker of `database`.
#[must_use]
pub fn take(database: pg_sys::Oid) -> Vec<Failure> {
    let mut failures = Vec::new();
    for place in NOTES.elements() {
        // Only the worker of the database takes its notes.
        if is_for(place, database) && place.advance(FULL, BUSY) {
            failures.push(place.read());
            place.state.store(FREE, Ordering::Release);
        }
    }
    failures
}

/// Remembers why the current transaction, or a part of it, will be rolled back, for callers that catch the error themselves.
pub use super::last_error::remember as remember_error;
