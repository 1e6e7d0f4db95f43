//! Owns a batch that was read but is not sent to Kafka yet, because the required standbys do not have its
//! commits.
//!
//! Runs in: a relay's background worker, main thread.
//!
//! This takes moments while a standby writes the commits of other sessions. It takes long if no standby is
//! connected and a session has committed without waiting for one (`synchronous_commit = local` or `off`, or a
//! cancelled wait). Nothing can wake the relay when it is over, so the relay checks at growing intervals.

use std::time::{Duration, Instant};

use super::Relay;
use super::candidates::PendingBatch;
use crate::pg::durability::{self, Place};

/// The first and the longest time between two checks.
const PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(250));

/// A wait that is longer than this is reported.
pub(super) const REPORT_AFTER: Duration = Duration::from_secs(1);

/// How a long wait is reported.
pub(super) const WAITS: &str = "waiting for a synchronous standby: events are committed here, but not on the \
                                standbys that synchronous_standby_names requires";

/// The batch, and what it waits for.
pub struct Unreplicated {
    pending: PendingBatch,
    place: Place,
    since: Instant,
    next_look: Instant,
    pause: Duration,
    reported: bool,
}

impl Unreplicated {
    /// When to check again.
    #[must_use]
    pub fn next_look(&self) -> Instant {
        self.next_look
    }

    /// Whether the wait has taken so long that it was reported.
    #[must_use]
    pub fn is_reported(&self) -> bool {
        self.reported
    }
}

impl Relay {
    /// Hands a batch over, or keeps it until its commits, which end at `place`, are on the required standbys.
    pub(super) fn hand_over_replicated(&mut self, pending: PendingBatch, place: Option<Place>) {
        match place {
            Some(place) if !pending.is_empty() && !durability::is_on_standbys(place) => {
                let now = Instant::now();
                let (next_look, pause) = (now + PAUSE.0, PAUSE.0);
                self.unreplicated =
                    Some(Unreplicated { pending, place, since: now, next_look, pause, reported: false });
            }
            _ => self.hand_over(pending),
        }
    }

    /// Hands over the batch that waits for standbys, if they have it now or are no longer required.
    pub(super) fn check_standbys(&mut self) {
        let Some(mut batch) = self.unreplicated.take() else { return };
        if !self.may_publish() {
            self.put_back(&batch.pending);
            return;
        }
        if durability::is_on_standbys(batch.place) {
            if batch.reported {
                tracing::info!("the synchronous standbys have confirmed all commits; publishing continues");
            }
            self.hand_over(batch.pending);
            return;
        }
        let now = Instant::now();
        if !batch.reported && now >= batch.since + REPORT_AFTER {
            batch.reported = true;
            tracing::warn!("{WAITS}");
            self.slot.show_error(WAITS);
        }
        if now >= batch.next_look {
            batch.pause = (batch.pause * 2).min(PAUSE.1);
            batch.next_look = now + batch.pause;
        }
        self.unreplicated = Some(batch);
    }

    /// Withdraws the batch, because an event has come back for which others may have to wait. The rows are
    /// read again, in their order.
    pub(super) fn give_up_unreplicated(&mut self) {
        if let Some(batch) = self.unreplicated.take() {
            self.put_back(&batch.pending);
        }
    }
}
