//! `inbox.await()`: waits until a subscription has something to receive.
//!
//! It commits first, and waits between transactions, so that no snapshot keeps VACUUM from its work.

use std::time::{Duration, Instant};

use pgrx::prelude::*;

use super::ready;
use super::refusals::no_name;
use super::subscription::Subscription;
use crate::inbox::arrivals;
use crate::inbox::table::SUBSCRIPTION;
use crate::pg::backend;
use crate::pg::function::{Arguments, sql_function};
use crate::pg::spi;
use crate::pg::user_context::{Owner, UserContext};
use crate::pg::user_error::UserError;

sql_function!(inbox_await, pg_finfo_inbox_await, wait);

/// Longest sleep between two looks: a retry comes due, or a lease expires.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

fn wait(arguments: &Arguments) -> Option<pg_sys::Datum> {
    // The argument may lie in memory that the first commit frees.
    let name = arguments.text(0).unwrap_or_else(|| no_name().raise()).to_owned();
    let timeout = arguments
        .interval(1)
        .map(|timeout| Duration::from_micros(u64::try_from(timeout.as_micros().max(0)).unwrap_or(u64::MAX)));
    if !arguments.may_commit() {
        in_a_transaction().raise();
    }
    // Longer than any server lives is no deadline at all.
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    // From here on no arrival is missed: one that comes after a look ends the sleep that follows it.
    let waiting = arrivals::condition().wait(c"EventOutboxArrivals");
    let is_ready = loop {
        spi::commit();
        let is_ready = is_ready(&name);
        let left = deadline.map_or(LOOK_AGAIN, |deadline| deadline.saturating_duration_since(Instant::now()));
        if is_ready || left.is_zero() {
            break is_ready;
        }
        // The look has left a snapshot behind, if transactions are REPEATABLE READ.
        spi::commit();
        waiting.sleep(left.min(LOOK_AGAIN));
    };
    drop(waiting);
    arguments.record([is_ready.into_datum()])
}

/// Whether a lane has something to receive that no other session has locked.
fn is_ready(name: &str) -> bool {
    let caller = backend::user();
    let _owner = UserContext::switch_to(Owner::of(SUBSCRIPTION));
    spi::connected(|| {
        let subscription = Subscription::named(name, caller);
        !subscription.is_paused && ready::is_any(&subscription)
    })
}

fn in_a_transaction() -> UserError {
    UserError {
        code: PgSqlErrorCode::ERRCODE_INVALID_TRANSACTION_TERMINATION,
        message: "inbox.await() cannot run inside a transaction block or a function".into(),
        detail: "It commits the transaction, so that no snapshot is kept while it waits.".into(),
        hint: "CALL it between transactions, or in a procedure or DO block that is itself outside of one."
            .into(),
    }
}
