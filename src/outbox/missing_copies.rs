//! Owns the log lines about dead events whose copy could not be sent to `event_outbox.dead_letter_topic`. The
//! first failure for each topic and error is logged in full, further ones as counts.
//!
//! Runs in: the relay, and client backends that report refusals by hand. A client backend logs a count
//! together with its next missing copy.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use event_outbox_policy::worker::log_throttle::{LogThrottle, RepeatCount};
use once_cell::sync::Lazy;
use pgrx::prelude::*;

use crate::pg::function::{Arguments, sql_function};

sql_function!(outbox_log_missing_copy, pg_finfo_outbox_log_missing_copy, log_missing_copy);

static STARTED_AT: Lazy<Instant> = Lazy::new(Instant::now);

thread_local! {
    /// The missing copies, by the event's topic and the error's SQLSTATE.
    static MISSING: RefCell<LogThrottle<(String, String)>> = RefCell::default();
}

/// The arguments are the event's id and topic, and the error's SQLSTATE and message.
fn log_missing_copy(arguments: &Arguments) -> Option<pg_sys::Datum> {
    let (event, error) = (arguments.uuid(0)?, arguments.text(3)?);
    let kind = (arguments.text(1)?.to_owned(), arguments.text(2)?.to_owned());
    let is_first = MISSING.with_borrow_mut(|missing| missing.record(&kind, 1, age()));
    if is_first {
        log(format!("event_outbox: no copy of dead event {event} of topic \"{}\" was sent: {error}", kind.0));
    }
    log_counts();
    None
}

/// Logs the counts of missing copies that are due.
pub fn log_counts() {
    for RepeatCount { kind, count } in MISSING.with_borrow_mut(|missing| missing.due(age())) {
        log(match kind {
            Some((topic, code)) => format!(
                "event_outbox: no copies of {count} more dead event(s) of topic \"{topic}\" were sent (SQLSTATE {code})"
            ),
            None => {
                format!("event_outbox: no copies of {count} more dead event(s) of other topics were sent")
            }
        });
    }
}

/// The time at which the next count is due.
pub fn next_count() -> Option<Instant> {
    MISSING.with_borrow(LogThrottle::next_due).map(|due| *STARTED_AT + due)
}

fn age() -> Duration {
    STARTED_AT.elapsed()
}

fn log(line: String) {
    ereport!(LOG, PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION, line);
}
