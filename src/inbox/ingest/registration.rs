//! Owns the ingest worker's registration as a kind of worker: its name, its notices, and how sessions reach it.
//!
//! Runs in: any process.

use pgrx::prelude::*;

use super::catalog;
use super::metrics::{self, State};
use crate::inbox::handlers::supervisor::Task;
use crate::inbox::{handlers, project};
use crate::pg::function::{Arguments, sql_function};
use crate::worker::at_commit;
use crate::worker::kind::{Kind, Notice, WorkerKey};
use crate::worker::registration::Registration;
use crate::worker::slot::Slot;
use crate::worker::slots;

sql_function!(inbox_after_change, pg_finfo_inbox_after_change, after_change);

/// The ingest worker's kind.
pub const KIND: Kind = Kind::new(1);

/// Subscriptions or partitions were changed: the worker must read them again.
pub const SUBSCRIPTIONS_CHANGED: Notice = Notice::new(0);
/// Sessions have noted failures.
pub const FAILURES: Notice = Notice::new(1);
/// Events were appended to the event store.
pub const EVENTS_APPENDED: Notice = Notice::new(2);

/// The ingest worker's registration.
pub static INGEST: Registration = Registration {
    kind: KIND,
    name: c"event_outbox inbox",
    helpers: &[<handlers::task::Task as Task>::NAME, <project::task::Task as Task>::NAME],
    noun: "inbox worker",
    while_absent: "Its subscriptions receive no new events.",
    entry: "event_outbox_inbox_main",
    after_any_change: SUBSCRIPTIONS_CHANGED.and(EVENTS_APPENDED),
    is_needed: Some(catalog::has_subscriptions),
    reserved: |slot| metrics::of(slot).clear(),
    started: |slot| metrics::of(slot).show(State::Starting),
    ended: |slot| metrics::of(slot).end(),
};

/// The slot of the ingest worker of a database, if it has one.
#[must_use]
pub fn slot_of(database: pg_sys::Oid) -> Option<&'static Slot> {
    slots::all().find(WorkerKey { database, kind: KIND })
}

/// After each statement that changes a subscription or a partition: the worker reads them again when this commits. If there
/// is none, one is started.
fn after_change(_arguments: &Arguments) -> Option<pg_sys::Datum> {
    at_commit::wake(KIND, SUBSCRIPTIONS_CHANGED);
    Some(pg_sys::Datum::from(0_usize))
}

/// Has the worker look for new events of the event store when the current transaction commits. Without a worker there is no
/// subscription that could want them.
pub fn wake_for_events() {
    if slots::all().find(WorkerKey::here(KIND)).is_some() {
        at_commit::wake(KIND, EVENTS_APPENDED);
    }
}
