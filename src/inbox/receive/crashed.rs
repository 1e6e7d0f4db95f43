//! Owns what was being received when the server crashed, until the worker of its database has recorded it. No session receives
//! from such a lane meanwhile, so a crash is counted before its events are received again.
//!
//! It is kept in a file, too, should the server crash again before that.
//!
//! Runs in: the postmaster, which finds it at the start; backends look; the ingest worker takes it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicU16, AtomicU32, AtomicUsize, Ordering};

use event_outbox_policy::inbox::in_flight::{self, ALONE, InFlight, NOTHING};
use once_cell::sync::OnceCell;
use pgrx::pg_shmem_init;
use pgrx::prelude::*;

use super::failures::{Cause, Crash, Failure};
use crate::pg::shmem::{AtStartup, SharedArray};

/// The most records that are kept.
pub const PLACES: usize = 1024;

/// Why such an event has failed.
const ERROR: &str = "the server crashed while the event was being handled";

const PATH: &str = "pg_stat_tmp/event_outbox.crashed";

static FILE: OnceCell<Option<File>> = OnceCell::new();

static RECORDS: SharedArray<Place> = SharedArray::new(c"event_outbox_inbox_crashed", || PLACES);

/// How many of them are not settled yet.
static LEFT: SharedArray<AtomicUsize> = SharedArray::new(c"event_outbox_inbox_crashed_left", || 1);

/// Reads the files, when the arrays are there.
static FOUND: AtStartup = AtStartup::new(find);

/// Requests the shared memory.
pub fn init() {
    pg_shmem_init!(RECORDS = ());
    pg_shmem_init!(LEFT = ());
    pg_shmem_init!(FOUND = ());
}

/// A place for a record. The postmaster writes it before other processes start.
#[derive(Default)]
struct Place {
    is_left: AtomicBool,
    database: AtomicU32,
    subscription: AtomicI32,
    lane: AtomicU16,
    based_on: AtomicI64,
    upto: AtomicI64,
    count: AtomicU32,
    is_retry: AtomicBool,
    retried: AtomicI64,
    has_waited: AtomicBool,
    is_to_blame: AtomicBool,
}

impl Place {
    fn write(&self, record: &InFlight) {
        let order = Ordering::Relaxed;
        self.database.store(record.database, order);
        self.subscription.store(record.subscription, order);
        self.lane.store(record.lane, order);
        self.based_on.store(record.based_on, order);
        self.upto.store(record.upto, order);
        self.count.store(record.count, order);
        self.is_retry.store(record.retried.is_some(), order);
        self.retried.store(record.retried.unwrap_or(0), order);
        self.has_waited.store(record.has_waited, order);
        self.is_to_blame.store(record.is_to_blame, order);
        self.is_left.store(true, Ordering::Release);
    }

    fn failure(&self, place: usize) -> Failure {
        let order = Ordering::Relaxed;
        let crash = Crash {
            place,
            is_to_blame: self.is_to_blame.load(order),
            has_waited: self.has_waited.load(order),
        };
        Failure {
            subscription_id: self.subscription.load(order),
            lane: self.lane.load(order),
            based_on: self.based_on.load(order),
            upto: self.upto.load(order),
            count: self.count.load(order),
            retried: self.is_retry.load(order).then(|| self.retried.load(order)),
            error: ERROR.into(),
            cause: Cause::Crash(crash),
        }
    }
}

fn left() -> Option<&'static AtomicUsize> {
    LEFT.elements().first()
}

fn offset(place: usize) -> u64 {
    (place * ALONE) as u64
}

/// Judges what was being received when the server ended, and keeps it with what is left of earlier crashes.
fn find() {
    let file = FILE.get_or_init(|| super::in_flight::open(PATH)).as_ref();
    let mut records = super::in_flight::take(PLACES);
    in_flight::judge(&mut records);
    if let Some(file) = file {
        for place in 0..PLACES {
            let mut room = [0; ALONE];
            if file.read_exact_at(&mut room, offset(place)).is_err() {
                break;
            }
            records.extend(in_flight::decode(&room));
        }
        let _ = file.set_len(0);
    }
    records.truncate(PLACES);
    for (place, (kept, record)) in RECORDS.elements().iter().zip(&records).enumerate() {
        kept.write(record);
        let mut room = [0; ALONE];
        let length = in_flight::encode(&[*record], &mut room);
        if let Some(file) = file {
            let _ = file.write_all_at(&room[..length], offset(place));
        }
    }
    if let Some(left) = left() {
        left.store(records.len(), Ordering::Release);
    }
}

/// Whether a lane of this database waits for the worker to record a crash.
#[must_use]
pub fn holds(subscription: i32, lane: u16) -> bool {
    left().is_some_and(|left| left.load(Ordering::Acquire) > 0)
        && of_database().any(|(_, place)| {
            place.subscription.load(Ordering::Relaxed) == subscription
                && place.lane.load(Ordering::Relaxed) == lane
        })
}

fn of_database() -> impl Iterator<Item = (usize, &'static Place)> {
    let database = super::in_flight::database();
    RECORDS.elements().iter().enumerate().filter(move |(_, place)| {
        place.is_left.load(Ordering::Acquire) && place.database.load(Ordering::Relaxed) == database
    })
}

/// What is left for the worker of this database.
#[must_use]
pub fn failures() -> Vec<Failure> {
    of_database().map(|(at, place)| place.failure(at)).collect()
}

/// A record is settled: its lane may be received from.
pub fn settled(crash: Crash) {
    let Some(place) = RECORDS.elements().get(crash.place) else { return };
    if place.is_left.swap(false, Ordering::AcqRel) {
        if let Some(file) = FILE.get().and_then(Option::as_ref) {
            let _ = file.write_all_at(&NOTHING, offset(crash.place));
        }
        if let Some(left) = left() {
            left.fetch_sub(1, Ordering::AcqRel);
        }
    }
}
