//! Failures that sessions have noted: what they had received when a transaction was rolled back.
//!
//! A transaction that is rolled back leaves nothing in tables, so it leaves a note in shared memory. The ingest worker takes
//! the notes and records them. If there is no room for a note, the attempt is not counted, and the event is received again.
//!
//! Runs in: any session at the end of a transaction, where nothing may fail; the ingest worker takes the notes.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicI32, AtomicI64, AtomicU8, AtomicU32, Ordering};

use pgrx::pg_shmem_init;
use pgrx::prelude::*;

use crate::pg::shmem::SharedArray;

/// How many notes there can be.
const NOTES: usize = 512;

/// How much of an error's text is kept, in bytes.
const TEXT_BYTES: usize = 240;

/// Marks a note about events that were new.
const NEW: i64 = i64::MIN;

const FREE: u32 = 0;
const WRITTEN: u32 = 1;
const FULL: u32 = 2;

static NOTES_MADE: SharedArray<Note> = SharedArray::new(c"event_outbox_inbox_failures", || NOTES);

/// Requests the shared memory.
pub fn init() {
    pg_shmem_init!(NOTES_MADE = ());
}

/// Events that were received in a transaction that was rolled back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// The subscription.
    pub subscription: i32,
    /// The lane.
    pub lane: u16,
    /// The state of the lane on which the receiver built.
    pub based_on: i64,
    /// The position of the last event.
    pub upto: i64,
    /// The number of events.
    pub count: u32,
    /// Whether they were events that waited for a retry, or behind one.
    pub waited: bool,
}

/// A failure, with the text of the error if it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What was received.
    pub received: Received,
    /// The text of the error.
    pub error: Option<String>,
}

/// A place for a note.
struct Note {
    state: AtomicU32,
    database: AtomicU32,
    subscription: AtomicI32,
    lane: AtomicU32,
    based_on: AtomicI64,
    upto: AtomicI64,
    count: AtomicU32,
    waited: AtomicU32,
    length: AtomicU32,
    text: [AtomicU8; TEXT_BYTES],
}

impl Default for Note {
    fn default() -> Self {
        Self {
            state: AtomicU32::new(FREE),
            database: AtomicU32::new(0),
            subscription: AtomicI32::new(0),
            lane: AtomicU32::new(0),
            based_on: AtomicI64::new(NEW),
            upto: AtomicI64::new(0),
            count: AtomicU32::new(0),
            waited: AtomicU32::new(0),
            length: AtomicU32::new(0),
            text: [const { AtomicU8::new(0) }; TEXT_BYTES],
        }
    }
}

/// The text of the last error of this session. Plain data, because a value with a destructor could be gone when the process
/// ends.
struct LastError {
    length: Cell<usize>,
    text: RefCell<[u8; TEXT_BYTES]>,
}

thread_local! {
    static LAST_ERROR: LastError =
        const { LastError { length: Cell::new(0), text: RefCell::new([0; TEXT_BYTES]) } };
}

/// Keeps the text of an error, for the failures that are noted next. Cannot fail.
pub fn remember_error(text: &str) {
    let most = text.len().min(TEXT_BYTES);
    let length = (0..=most).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    LAST_ERROR.with(|last| {
        if let Ok(mut kept) = last.text.try_borrow_mut() {
            kept[..length].copy_from_slice(&text.as_bytes()[..length]);
            last.length.set(length);
        }
    });
}

/// Forgets the text of the last error.
pub fn forget_error() {
    LAST_ERROR.with(|last| last.length.set(0));
}

/// Notes a failure. Cannot fail: without a free place, nothing is noted.
pub fn note(database: pg_sys::Oid, received: &Received) {
    let free = NOTES_MADE.elements().iter().find(|note| {
        note.state.compare_exchange(FREE, WRITTEN, Ordering::Acquire, Ordering::Relaxed).is_ok()
    });
    let Some(note) = free else { return };
    let order = Ordering::Relaxed;
    note.database.store(database.to_u32(), order);
    note.subscription.store(received.subscription, order);
    note.lane.store(received.lane.into(), order);
    note.based_on.store(received.based_on, order);
    note.upto.store(received.upto, order);
    note.count.store(received.count, order);
    note.waited.store(received.waited.into(), order);
    LAST_ERROR.with(|last| {
        let length = last.length.get();
        if let Ok(text) = last.text.try_borrow() {
            text.iter().zip(&note.text).take(length).for_each(|(byte, place)| place.store(*byte, order));
        }
        note.length.store(length as u32, order);
    });
    note.state.store(FULL, Ordering::Release);
}

/// Whether there are notes about this database.
#[must_use]
pub fn any(database: pg_sys::Oid) -> bool {
    full(database).next().is_some()
}

/// Takes the notes about this database.
#[must_use]
pub fn take(database: pg_sys::Oid) -> Vec<Failure> {
    full(database)
        .map(|note| {
            let order = Ordering::Relaxed;
            let length = note.length.load(order) as usize;
            let text: Vec<u8> = note.text.iter().take(length).map(|byte| byte.load(order)).collect();
            let failure = Failure {
                received: Received {
                    subscription: note.subscription.load(order),
                    lane: note.lane.load(order) as u16,
                    based_on: note.based_on.load(order),
                    upto: note.upto.load(order),
                    count: note.count.load(order),
                    waited: note.waited.load(order) != 0,
                },
                error: (length > 0).then(|| String::from_utf8_lossy(&text).into_owned()),
            };
            note.state.store(FREE, Ordering::Release);
            failure
        })
        .collect()
}

fn full(database: pg_sys::Oid) -> impl Iterator<Item = &'static Note> {
    NOTES_MADE.elements().iter().filter(move |note| {
        note.state.load(Ordering::Acquire) == FULL
            && note.database.load(Ordering::Relaxed) == database.to_u32()
    })
}
