//! Locks all lanes of a subscription, for what changes or ends all of them.

use pgrx::prelude::*;

use event_outbox_policy::inbox::lanes::LANES;

use crate::inbox::table::lane_lock;
use crate::pg::function::{Arguments, sql_function};

sql_function!(inbox_lock_lanes, pg_finfo_inbox_lock_lanes, lock_lanes);

/// Waits until no transaction receives from the subscription, and keeps others from it until the end of this one.
fn lock_lanes(arguments: &Arguments) -> Option<pg_sys::Datum> {
    let subscription = arguments.integer(0)?;
    // In one order, so that two that lock all of them do not wait for each other.
    (0..LANES).for_each(|lane| lane_lock::wait(subscription, lane));
    Some(pg_sys::Datum::from(0_usize))
}
