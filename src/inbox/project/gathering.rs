//! Owns the wait for more events before a projection is ready: the more of them one transaction applies, the more of them are not
//! the last of their key, and are not written. Nobody may use the table yet.
//!
//! Runs in: the process of a projection, in a transaction.

use std::time::{Duration, Instant};

use super::progress;
use super::taken::Taken;
use crate::inbox::arrivals;
use crate::inbox::table::as_owner;
use crate::pg::snapshot::Snapshot;
use crate::worker::process;

/// How long events are gathered. The table is locked meanwhile, against changes of its definition.
const GATHER: Duration = Duration::from_secs(5);

/// How often they are taken.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Goes on taking events of a subscription while the ingest worker stores the rest of the topic: until all is taken that makes the
/// projection ready, there is no more room, or the time is over.
pub fn gather(subscription: i32, taken: &mut Taken) {
    let begin = Instant::now();
    while taken.can_grow() && begin.elapsed() < GATHER && !process::leave_requested() {
        let is_stored = as_owner(|| {
            let _snapshot = Snapshot::take_latest();
            progress::is_stored(subscription)
        });
        let look = Instant::now();
        if as_owner(|| taken.look(subscription)).is_none() || is_stored {
            return;
        }
        let arrivals = arrivals::condition().wait(c"EventOutboxProjection");
        while look.elapsed() < LOOK_EVERY && !process::leave_requested() {
            arrivals.sleep(LOOK_EVERY.saturating_sub(look.elapsed()));
        }
    }
}
