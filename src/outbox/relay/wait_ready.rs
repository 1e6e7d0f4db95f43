//! Owns the wait of a relay for a database in which it must not work yet.
//!
//! Runs in: a relay's background worker, main thread.
//!
//! The relay reports the reason once, in the log and in `outbox.status`, and its events wait. A command that
//! removes the reason restarts the relay (`worker/lifecycle.rs`).

use std::time::{Duration, Instant};

use super::readiness::NotReady;
use super::{admin, metrics};
use crate::pg::wait_set::Sleep;
use crate::worker::metrics::Connection;
use crate::worker::phase::Request;
use crate::worker::process;
use crate::worker::slot::Slot;

/// The shortest time between two checks. After each check, the next commit of an event wakes the relay, which
/// would be far too often.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Checks until the relay can work. Returns `None` if the relay is asked to end before, or if `check` returns
/// `None` because there is nothing to relay.
pub fn wait_until_ready<R>(slot: &Slot, check: impl Fn() -> Option<Result<R, NotReady>>) -> Option<R> {
    let mut sleep = None;
    let mut reported = None;
    loop {
        // Clear the flag before the check, so a commit during the check sets it again.
        slot.wakeup.take();
        match check()? {
            Ok(found) => return Some(found),
            Err(not_ready) => {
                metrics::of(slot).show(not_ready.state);
                metrics::of(slot).show_connection(Connection::Unknown);
                let text = not_ready.error.to_string();
                if reported.as_ref() != Some(&text) {
                    slot.show_error(&text);
                    not_ready.error.log(pgrx::PgLogLevel::WARNING);
                    reported = Some(text);
                }
            }
        }
        if !rest(slot, sleep.get_or_insert_with(|| Sleep::new(c"EventOutboxRelay", None))) {
            return None;
        }
    }
}

/// Sleeps until there is a reason to check again. Returns `false` if the relay must end instead.
fn rest(slot: &Slot, sleep: &Sleep) -> bool {
    let next = Instant::now() + CHECK_INTERVAL;
    loop {
        process::answer_interrupts();
        // Nothing here depends on a setting, but an unanswered signal would stay pending.
        process::reload_if_asked();
        if process::stop_requested() || slot.order() != Request::None {
            return false;
        }
        admin::decline("The relay waits. outbox.status shows the reason.");
        let left = next.saturating_duration_since(Instant::now());
        if slot.wakeup.is_set() && left.is_zero() {
            return true;
        }
        let restart = slot
            .restart_date()
            .map(|date| Duration::from_micros(u64::try_from(date - crate::pg::now()).unwrap_or(0)));
        sleep.wait(slot.wakeup.is_set().then_some(left).into_iter().chain(restart).min());
    }
}
