//! Owns what transactions that append tell readers of the whole store: where the sequence of positions stood before they drew
//! one. `event_outbox_policy::store::cursor` says why readers then miss nothing.
//!
//! Runs in: client backends, and the inbox's worker.

use std::cell::Cell;

use pgrx::prelude::*;

use super::{EVENT_POSITION_SEQ, STREAM, wake_at_commit};
use crate::pg::function::{Arguments, sql_function};
use crate::pg::held_locks;
use crate::pg::user_context::{Owner, UserContext};

sql_function!(event_store_before_insert, pg_finfo_event_store_before_insert, before_insert);
sql_function!(event_store_stable_position, pg_finfo_event_store_stable_position, find_stable_position);

thread_local! {
    /// A transaction of this process, and where the sequence stood before it drew its first position.
    static FLOOR: Cell<Option<(pg_sys::TransactionId, i64)>> = const { Cell::new(None) };
}

/// Trigger before each INSERT: also events that are inserted by hand, or restored, are announced.
fn before_insert(_arguments: &Arguments) -> Option<pg_sys::Datum> {
    let _owner = UserContext::switch_to(Owner::of(STREAM));
    announce(None);
    Some(pg_sys::Datum::from(0_usize))
}

/// Tells readers that this transaction may add events at positions that are not drawn yet from this sequence, which is looked
/// for if it is not known. As the owner of the tables.
pub fn announce(sequence: Option<pg_sys::Oid>) {
    // SAFETY: in a transaction; this assigns its id if it has none.
    let transaction = unsafe { pg_sys::GetTopTransactionId() };
    let floor = match FLOOR.get() {
        Some((known, floor)) if known == transaction => floor,
        _ => {
            let floor = last_position(sequence);
            FLOOR.set(Some((transaction, floor)));
            floor
        }
    };
    // Again each time: ROLLBACK TO SAVEPOINT may have released it.
    held_locks::hold(floor);
    wake_at_commit();
}

/// The position up to which everything is decided. Take the snapshot to read with afterwards. As the owner of the tables.
#[must_use]
pub fn stable_position() -> i64 {
    // In this order.
    let last = last_position(None);
    held_locks::lowest().map_or(last, |lowest| lowest.min(last))
}

/// The last position that was drawn; 0 if none was.
fn last_position(sequence: Option<pg_sys::Oid>) -> i64 {
    let sequence = sequence.unwrap_or_else(|| EVENT_POSITION_SEQ.existing());
    // SAFETY: in a transaction; the function takes a sequence's oid, and NULL means never called.
    unsafe { pgrx::direct_function_call(pg_sys::pg_sequence_last_value, &[sequence.into_datum()]) }
        .unwrap_or(0)
}

fn find_stable_position(_arguments: &Arguments) -> Option<pg_sys::Datum> {
    let _owner = UserContext::switch_to(Owner::of(STREAM));
    stable_position().into_datum()
}
