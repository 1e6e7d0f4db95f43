//! Owns the event store: streams of events with optimistic concurrency, in the application's own transactions.
//!
//! [`append`] stores events by way of [`tables`], [`publish`] emits them through the outbox, [`writers`] tells readers what is still to come, and
//! [`aggregate`] calls reducers. What reads whole pages is in `sql/store`. The inbox's worker takes events from here for
//! subscriptions ([`crate::inbox::ingest::local`]).
//!
//! Runs in: client backends; [`writers`] also in the inbox's worker.

use std::sync::OnceLock;

use crate::pg::catalog::Member;
use crate::pg::watch::Watch;

pub mod aggregate;
pub mod append;
pub mod categories;
pub mod direct;
pub mod new_events;
pub mod publish;
pub mod row;
pub mod statements;
pub mod tables;
pub mod writers;

/// A relation of the schema `event_store`.
pub const fn member(name: &'static std::ffi::CStr) -> Member {
    Member::new(c"event_store", name)
}

/// The streams.
pub const STREAM: Member = member(c"stream");
/// The events.
pub const EVENT: Member = member(c"event");
/// The commands that were handled.
pub const COMMAND: Member = member(c"command");
/// The sequence of the events' positions.
pub const EVENT_POSITION_SEQ: Member = member(c"event_position_seq");

/// All watches of the store.
pub fn watches() -> impl Iterator<Item = &'static Watch> {
    [&categories::GRANTS_WATCH, &categories::BINDINGS_WATCH].into_iter().chain(&direct::WATCHES)
}

/// Has whoever reads across streams woken when the transaction commits.
static WAKE: OnceLock<fn()> = OnceLock::new();

/// Registers what wakes those who read across streams; in the postmaster.
pub fn init(wake_at_commit: fn()) {
    // It is set once.
    let _ = WAKE.set(wake_at_commit);
}

/// The current transaction appends events.
fn wake_at_commit() {
    if let Some(wake) = WAKE.get() {
        wake();
    }
}
