//! What the current transaction has received. If it is rolled back, or the subtransaction in which it received, a note says so
//! ([`failures`]); the worker then decides what becomes of the events.
//!
//! A failure must name the state of the lane that is stored, so that it is stale once the lane has moved. A transaction that has
//! received from a lane twice has built the second time on a state that only it sees. So if only the second part is rolled
//! back, its note waits for the commit.

use std::cell::{Cell, RefCell};
use std::ffi::c_void;

use event_outbox_policy::inbox::in_flight::InFlight;
use pgrx::prelude::*;

use super::failures::{self, Note};
use super::in_flight;
use super::last_error;
use super::wake;
use crate::pg::backend;

/// What was received from a lane.
pub struct Delivery {
    /// The subscription.
    pub subscription: i32,
    /// The lane.
    pub lane: u16,
    /// The number of the lane's state before.
    pub based_on: i64,
    /// The last position that the lane has passed with an event; where it was if all of them had waited.
    pub upto: i64,
    /// The positions of the events.
    pub positions: Vec<i64>,
    /// Those of them that had waited, whose rows are deleted.
    pub waited: Vec<Waited>,
    /// Whether this transaction must receive nothing else: if it fails, the one event is to blame.
    pub is_alone: bool,
    /// Whether the one event may have crashed the server.
    pub is_suspect: bool,
    /// Whether the lane may have more to receive.
    pub has_more: bool,
    /// Those that `inbox.nack()` has given back, each in its subtransaction.
    given_back: Vec<(pg_sys::SubTransactionId, i64)>,
    subtransaction: pg_sys::SubTransactionId,
    /// Its subtransaction was rolled back; the note waits.
    has_failed: bool,
    /// How many events were rolled back with it, its own included.
    failed_together: usize,
}

/// The row of an event that had waited. It lives until the transaction ends.
#[derive(Clone, Copy)]
pub struct Waited {
    /// The position.
    pub position: i64,
    /// A copy of the row, as [`super::stored`] selects it.
    pub row: crate::pg::spi::Row,
}

thread_local! {
    static DELIVERIES: RefCell<Vec<Delivery>> = const { RefCell::new(Vec::new()) };
    /// Whether there is any, for the ends of all other transactions.
    static IS_RECEIVING: Cell<bool> = const { Cell::new(false) };
}

/// Registers for the ends of transactions and subtransactions; inherited by every backend.
pub fn init() {
    // SAFETY: the callbacks live as long as the library, which is never unloaded.
    unsafe {
        pg_sys::RegisterXactCallback(Some(at_transaction_end), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(at_subtransaction_end), std::ptr::null_mut());
    }
}

fn current_subtransaction() -> pg_sys::SubTransactionId {
    // SAFETY: reads the state of the transaction.
    unsafe { pg_sys::GetCurrentSubTransactionId() }
}

impl Delivery {
    /// Nothing of this lane yet, whose state has this number and position.
    #[must_use]
    pub fn new(subscription: i32, lane: u16, based_on: i64, upto: i64) -> Self {
        Self {
            subscription,
            lane,
            based_on,
            upto,
            positions: Vec::new(),
            waited: Vec::new(),
            is_alone: false,
            is_suspect: false,
            has_more: false,
            given_back: Vec::new(),
            subtransaction: current_subtransaction(),
            has_failed: false,
            failed_together: 0,
        }
    }

    fn is_of_same_lane(&self, other: &Self) -> bool {
        self.lane == other.lane && self.subscription == other.subscription
    }
}

/// Remembers a delivery until the transaction ends.
pub fn add(delivery: Delivery) {
    last_error::begin();
    IS_RECEIVING.set(true);
    DELIVERIES.with_borrow_mut(|all| {
        let same = all.iter_mut().find(|earlier| {
            earlier.is_of_same_lane(&delivery)
                && earlier.subtransaction == delivery.subtransaction
                && !earlier.has_failed
        });
        match same {
            Some(earlier) => {
                earlier.upto = delivery.upto;
                earlier.positions.extend(delivery.positions);
                earlier.waited.extend(delivery.waited);
                earlier.is_alone |= delivery.is_alone;
                earlier.is_suspect |= delivery.is_suspect;
                earlier.has_more = delivery.has_more;
            }
            None => all.push(delivery),
        }
    });
}

/// Whether the transaction has received something.
#[must_use]
pub fn is_any() -> bool {
    IS_RECEIVING.get() && DELIVERIES.with_borrow(|all| all.iter().any(|delivery| !delivery.has_failed))
}

/// Whether the transaction must receive nothing else.
#[must_use]
pub fn is_alone() -> bool {
    IS_RECEIVING.get()
        && DELIVERIES.with_borrow(|all| all.iter().any(|delivery| delivery.is_alone && !delivery.has_failed))
}

/// Where an event of this transaction came from.
pub struct Origin {
    /// The lane.
    pub lane: u16,
    /// Its row, if it had waited.
    pub waited: Option<Waited>,
    /// Whether it was given back already.
    pub is_given_back: bool,
    /// The later events of its lane that were received and not given back.
    pub later: Vec<(i64, Option<Waited>)>,
}

/// Finds an event that the transaction has received.
#[must_use]
pub fn origin(subscription: i32, position: i64) -> Option<Origin> {
    DELIVERIES.with_borrow(|all| {
        let live = || {
            all.iter().filter(move |delivery| delivery.subscription == subscription && !delivery.has_failed)
        };
        let home = live().find(|delivery| delivery.positions.contains(&position))?;
        let of_lane = || live().filter(move |delivery| delivery.lane == home.lane);
        let is_given_back =
            |at: i64| of_lane().any(|delivery| delivery.given_back.iter().any(|(_, given)| *given == at));
        let waited =
            |at: i64| of_lane().flat_map(|delivery| &delivery.waited).find(|row| row.position == at).copied();
        let mut later: Vec<i64> = of_lane()
            .flat_map(|delivery| &delivery.positions)
            .copied()
            .filter(|at| *at > position && !is_given_back(*at))
            .collect();
        later.sort_unstable();
        later.dedup();
        Some(Origin {
            lane: home.lane,
            waited: waited(position),
            is_given_back: is_given_back(position),
            later: later.into_iter().map(|at| (at, waited(at))).collect(),
        })
    })
}

/// Remembers that an event was given back.
pub fn give_back(subscription: i32, position: i64) {
    let subtransaction = current_subtransaction();
    DELIVERIES.with_borrow_mut(|all| {
        let mut live =
            all.iter_mut().filter(|delivery| delivery.subscription == subscription && !delivery.has_failed);
        if let Some(home) = live.find(|delivery| delivery.positions.contains(&position)) {
            home.given_back.push((subtransaction, position));
        }
    });
}

/// How many events a note blames: more than one if others failed with them.
fn blamed(own: usize, all: usize) -> u32 {
    u32::try_from(own.max(all.min(2))).unwrap_or(u32::MAX)
}

impl Delivery {
    /// Leaves a note that `count` events from this state on have failed. Cannot fail.
    fn note(&self, upto: i64, count: u32) {
        last_error::with(|error, is_innocent| {
            if !is_innocent {
                failures::leave(
                    backend::database(),
                    Note {
                        subscription_id: self.subscription,
                        lane: self.lane,
                        based_on: self.based_on,
                        upto,
                        count,
                        retried: self.waited.first().map(|waited| waited.position).filter(|_| count == 1),
                        error: if error.is_empty() { b"the transaction was rolled back" } else { error },
                    },
                );
            }
        });
    }
}

/// Calls `visit` for each lane of which something was received: with its first delivery, the last position, and how many events
/// were received of it and of all lanes. No allocation, no error.
fn each_lane(all: &[Delivery], mut visit: impl FnMut(&Delivery, i64, usize, usize)) {
    let live = || all.iter().enumerate().filter(|(_, delivery)| !delivery.has_failed);
    let total = live().map(|(_, delivery)| delivery.positions.len()).sum();
    for (at, delivery) in live() {
        if live()
            .take_while(|(earlier, _)| *earlier < at)
            .any(|(_, earlier)| earlier.is_of_same_lane(delivery))
        {
            continue;
        }
        let of_lane = || live().map(|(_, other)| other).filter(|other| other.is_of_same_lane(delivery));
        let own = of_lane().map(|other| other.positions.len()).sum();
        let upto = of_lane().map(|other| other.upto).max().unwrap_or(delivery.upto);
        visit(delivery, upto, own, total);
    }
}

/// Leaves notes of all that the transaction has received. No allocation, no error.
fn fail_all(all: &[Delivery]) {
    each_lane(all, |delivery, upto, own, total| delivery.note(upto, blamed(own, total)));
}

/// Writes down what would not be acknowledged if the server crashed.
pub fn write_down() {
    if !IS_RECEIVING.get() {
        return;
    }
    let mut records = Vec::new();
    DELIVERIES.with_borrow(|all| {
        each_lane(all, |delivery, upto, own, _| {
            let mut of_lane = all.iter().filter(|other| other.is_of_same_lane(delivery));
            records.push(InFlight {
                database: in_flight::database(),
                subscription: delivery.subscription,
                lane: delivery.lane,
                based_on: delivery.based_on,
                upto,
                count: u32::try_from(own).unwrap_or(u32::MAX),
                retried: delivery.waited.first().map(|waited| waited.position).filter(|_| own == 1),
                has_waited: of_lane.any(|other| !other.waited.is_empty()),
                is_to_blame: delivery.is_suspect,
            });
        });
    });
    in_flight::write(&records);
}

/// What was received in a subtransaction that is rolled back has failed. No allocation, no error.
fn fail_part(all: &mut Vec<Delivery>, subtransaction: pg_sys::SubTransactionId) {
    let is_part = |delivery: &Delivery| delivery.subtransaction == subtransaction;
    let total = all.iter().filter(|delivery| is_part(delivery) && !delivery.has_failed);
    let total = total.map(|delivery| delivery.positions.len()).sum();
    for at in 0..all.len() {
        let delivery = &all[at];
        if !is_part(delivery) || delivery.has_failed {
            continue;
        }
        let same = |other: &&Delivery| other.is_of_same_lane(delivery) && !other.has_failed;
        let base = all[..at].iter().rev().find(same).map(|base| base.subtransaction);
        let own = delivery.positions.len();
        match base {
            None => delivery.note(delivery.upto, blamed(own, total)),
            // The base goes, too; its note speaks for both.
            Some(base) if base == subtransaction => {}
            Some(base) => {
                let delivery = &mut all[at];
                delivery.has_failed = true;
                delivery.failed_together = total;
                // If that part is rolled back, this note is forgotten.
                delivery.subtransaction = base;
            }
        }
    }
    all.retain(|delivery| !is_part(delivery));
    for delivery in all {
        delivery.given_back.retain(|(of, _)| *of != subtransaction);
    }
}

fn forget(is_abort: bool) {
    DELIVERIES.with(|all| {
        if let Ok(mut all) = all.try_borrow_mut() {
            all.clear();
        }
    });
    IS_RECEIVING.set(false);
    // The note of a session that outlives the postmaster reaches nobody; what it was receiving is found in the file.
    if !(is_abort && backend::is_orphan()) {
        in_flight::clear();
    }
    last_error::end();
}

/// Runs at every end of a transaction in every backend. At commit nothing here may fail: an ERROR would bring the
/// cluster down.
#[pg_guard]
unsafe extern "C-unwind" fn at_transaction_end(event: pg_sys::XactEvent::Type, _argument: *mut c_void) {
    use pg_sys::XactEvent::{XACT_EVENT_ABORT, XACT_EVENT_COMMIT, XACT_EVENT_PREPARE};
    if !IS_RECEIVING.get() || !matches!(event, XACT_EVENT_COMMIT | XACT_EVENT_ABORT | XACT_EVENT_PREPARE) {
        return;
    }
    let _ = DELIVERIES.try_with(|all| {
        let Ok(all) = all.try_borrow() else { return };
        match event {
            XACT_EVENT_ABORT => {
                fail_all(&all);
                wake::after_release();
            }
            XACT_EVENT_COMMIT => {
                all.iter().filter(|delivery| delivery.has_failed).for_each(|delivery| {
                    let own = delivery.positions.len();
                    delivery.note(delivery.upto, blamed(own, delivery.failed_together));
                });
                if all.iter().any(|delivery| delivery.has_more || delivery.is_suspect || delivery.has_failed)
                {
                    wake::after_release();
                }
            }
            // Whether it commits is decided in another session, maybe after a restart. Until then it keeps its lanes.
            _ => {}
        }
    });
    forget(event == XACT_EVENT_ABORT);
}

/// Runs at every end of a subtransaction in every backend.
#[pg_guard]
unsafe extern "C-unwind" fn at_subtransaction_end(
    event: pg_sys::SubXactEvent::Type,
    own: pg_sys::SubTransactionId,
    parent: pg_sys::SubTransactionId,
    _argument: *mut c_void,
) {
    use pg_sys::SubXactEvent::{SUBXACT_EVENT_ABORT_SUB, SUBXACT_EVENT_COMMIT_SUB};
    if !IS_RECEIVING.get() {
        return;
    }
    let _ = DELIVERIES.try_with(|all| {
        let Ok(mut all) = all.try_borrow_mut() else { return };
        match event {
            SUBXACT_EVENT_ABORT_SUB => {
                fail_part(&mut all, own);
                last_error::forget();
                wake::after_release();
            }
            SUBXACT_EVENT_COMMIT_SUB => {
                for delivery in all.iter_mut() {
                    if delivery.subtransaction == own {
                        delivery.subtransaction = parent;
                    }
                    let given_back = delivery.given_back.iter_mut().filter(|(of, _)| *of == own);
                    given_back.for_each(|(of, _)| *of = parent);
                }
            }
            _ => {}
        }
    });
}
