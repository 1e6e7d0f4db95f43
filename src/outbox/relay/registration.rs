//! Owns the relay's registration as a kind of worker: its name, its notices, and how sessions reach it.
//!
//! Runs in: any process.

use std::sync::atomic::Ordering;

use event_outbox_policy::reading::schedule;
use pgrx::prelude::*;

use super::metrics;
use super::state::State;
use crate::worker::kind::{Kind, Notice, WorkerKey};
use crate::worker::registration::Registration;
use crate::worker::slot::Slot;
use crate::worker::{at_commit, slots};

/// The relay's kind of worker.
pub const KIND: Kind = Kind::new(0);

/// Rows that the relay has read have changed: it must read the table from the beginning.
pub const REREAD: Notice = Notice::new(0);
/// The outbox was paused or resumed: the relay must find out which.
pub const PAUSE_CHANGED: Notice = Notice::new(1);
/// There may be a scheduled event that is due earlier than the relay knows.
pub const SCHEDULE_CHANGED: Notice = Notice::new(2);
/// Topics may be delivered in another way: the relay must find out how.
pub const DELIVERY_CHANGED: Notice = Notice::new(3);
/// There may be something to ask the Schema Registry.
pub const REGISTRY_CHANGED: Notice = Notice::new(4);
/// This relay must publish, even if one of a server that was promoted later does.
pub const TAKE_OVER: Notice = Notice::new(5);

/// The relay's registration.
pub static RELAY: Registration = Registration {
    kind: KIND,
    name: c"event_outbox relay",
    helpers: &[],
    noun: "relay",
    while_absent: "Its events wait in the outbox.",
    entry: "event_outbox_relay_main",
    after_any_change: PAUSE_CHANGED.and(SCHEDULE_CHANGED).and(DELIVERY_CHANGED).and(REGISTRY_CHANGED),
    is_needed: None,
    reserved: |slot| metrics::of(slot).clear(),
    started: |slot| metrics::of(slot).show(State::Starting),
    ended: |slot| metrics::of(slot).end(),
};

/// The slot of the relay of a database, if it has one.
#[must_use]
pub fn slot_of(database: pg_sys::Oid) -> Option<&'static Slot> {
    slots::all().find(WorkerKey { database, kind: KIND })
}

/// The slot of the relay of this database, if it has one.
#[must_use]
pub fn slot_here() -> Option<&'static Slot> {
    slots::all().find(WorkerKey::here(KIND))
}

/// Has the relay in this slot, that of this database, look for a request of this session.
pub fn call(slot: &Slot) {
    slots::all().call(slot, WorkerKey::here(KIND));
}

/// Wakes the relay when the current transaction commits, because it emits events.
pub fn wake_at_commit() {
    at_commit::wake(KIND, Notice::NONE);
}

/// Makes the relay read the table again when the current transaction commits, because it changes waiting
/// events.
pub fn reread_at_commit() {
    at_commit::wake(KIND, REREAD);
}

/// Makes the relay read the pause state again when the current transaction commits, because it pauses or
/// resumes the outbox.
pub fn reread_pause_at_commit() {
    at_commit::wake(KIND, PAUSE_CHANGED);
}

/// Makes the relay read again how topics are delivered when the current transaction commits, because it changes that.
pub fn reread_delivery_at_commit() {
    at_commit::wake(KIND, DELIVERY_CHANGED);
}

/// Makes the relay look what it is to ask the Schema Registry when the current transaction commits.
pub fn look_at_registry_at_commit() {
    at_commit::wake(KIND, REGISTRY_CHANGED);
}

/// Tells the relay that an event was scheduled for this time, in microseconds since 1970, unless it will look by then anyway.
/// Safe at commit.
pub fn tell_due(date: i64) {
    let key = WorkerKey::here(KIND);
    let Some(slot) = slots::all().find(key) else { return slots::all().request_rescan() };
    if schedule::must_tell(date, metrics::of(slot).next_due.load(Ordering::SeqCst)) {
        slot.notify(SCHEDULE_CHANGED);
        slots::all().wake(slot, key);
    }
}

/// Tells the relay of this database to publish, even if one of a server that was promoted later does. Returns whether there
/// is a relay.
#[must_use]
pub fn take_over() -> bool {
    let slot = slot_here();
    if let Some(slot) = slot {
        slot.notify(TAKE_OVER);
    }
    slot.is_some()
}

/// Whether the current transaction has emitted.
#[must_use]
pub fn has_emitted() -> bool {
    at_commit::will_wake(KIND)
}
