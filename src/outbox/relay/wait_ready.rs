//! A relay that has found its database in a state in which it must not work: it says so once, in the log and in
//! `outbox.status`, and waits. Events wait with it. Whoever changes that state has the relay restarted (`worker/lifecycle.rs`).

use std::time::{Duration, Instant};

use super::readiness::NotReady;
use super::state::Connection;
use super::{admin, metrics};
use crate::pg::wait_set::Sleep;
use crate::worker::phase::Request;
use crate::worker::process;
use crate::worker::slot::Slot;

/// Every commit of an event wakes a relay that has looked since the last; more often than this it need not look.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Looks for a not_ready until there is none; `None` if the relay is told to end before, or `look` gives none: then
/// there is nothing to relay.
pub fn wait_until_ready<R>(slot: &Slot, look: impl Fn() -> Option<Result<R, NotReady>>) -> Option<R> {
    let mut sleep = None;
    let mut said = None;
    loop {
        // Answered before the look, so that whoever changes something meanwhile is noticed.
        slot.wakeup.take();
        match look()? {
            Ok(found) => return Some(found),
            Err(not_ready) => {
                metrics::of(slot).show(not_ready.state);
                metrics::of(slot).show_connection(Connection::Unknown);
                let text = not_ready.error.to_string();
                if said.as_ref() != Some(&text) {
                    slot.show_error(&text);
                    not_ready.error.log(pgrx::PgLogLevel::WARNING);
                    said = Some(text);
                }
            }
        }
        if !rest(slot, sleep.get_or_insert_with(|| Sleep::new(c"EventOutboxRelay", None))) {
            return None;
        }
    }
}

/// Sleeps until there is a reason to look again; whether there is, and not to end.
fn rest(slot: &Slot, sleep: &Sleep) -> bool {
    let next = Instant::now() + LOOK_AGAIN;
    loop {
        process::answer_interrupts();
        // Nothing here depends on a setting; but a signal that is not answered would be one that is pending.
        process::reload_if_asked();
        if process::stop_requested() || slot.order() != Request::None {
            return false;
        }
        admin::decline("The relay waits; outbox.status says for what.");
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
