//! A batch that was read and is not handed to Kafka yet, since the standbys that are required do not have its
//! commits.
//!
//! That is so for moments, while a standby writes what others have committed; and for long, if none is there
//! and somebody has committed without waiting for it (`synchronous_commit = local` or `off`, or a cancelled
//! wait). Nobody can ring when it is over, so it is looked for, at growing intervals.

use std::time::{Duration, Instant};

use super::Relay;
use super::candidates::PendingBatch;
use crate::pg::durability::{self, Place};

/// First and longest time between two looks.
const PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(250));

/// A wait that is longer than this is worth telling.
const WORTH_TELLING: Duration = Duration::from_secs(1);

/// The batch, and what it waits for.
pub struct Unreplicated {
    pending: PendingBatch,
    place: Place,
    since: Instant,
    next_look: Instant,
    pause: Duration,
    told: bool,
}

impl Unreplicated {
    /// When to look again.
    #[must_use]
    pub fn next_look(&self) -> Instant {
        self.next_look
    }

    /// Whether it has taken so long that it is shown.
    #[must_use]
    pub fn is_told(&self) -> bool {
        self.told
    }
}

impl Relay {
    /// Hands a batch over, or keeps it until its commits, which end at `place`, are where they must be.
    pub(super) fn hand_over_replicated(&mut self, pending: PendingBatch, place: Option<Place>) {
        match place {
            Some(place) if !pending.is_empty() && !durability::is_on_standbys(place) => {
                let now = Instant::now();
                let (next_look, pause) = (now + PAUSE.0, PAUSE.0);
                self.unreplicated =
                    Some(Unreplicated { pending, place, since: now, next_look, pause, told: false });
            }
            _ => self.hand_over(pending),
        }
    }

    /// Hands the batch over that waits for standbys, if they have it now, or are no longer required.
    pub(super) fn look_at_standbys(&mut self) {
        let Some(mut batch) = self.unreplicated.take() else { return };
        if !self.may_publish() {
            self.put_back(&batch.pending);
            return;
        }
        if durability::is_on_standbys(batch.place) {
            if batch.told {
                tracing::info!("the standbys have confirmed what was committed, events go on");
            }
            self.hand_over(batch.pending);
            return;
        }
        let now = Instant::now();
        if !batch.told && now >= batch.since + WORTH_TELLING {
            batch.told = true;
            let text = "waiting for a synchronous standby: events are committed here, and not on the standbys that \
                        synchronous_standby_names requires";
            tracing::warn!("{text}");
            self.slot.show_error(text);
        }
        if now >= batch.next_look {
            batch.pause = (batch.pause * 2).min(PAUSE.1);
            batch.next_look = now + batch.pause;
        }
        self.unreplicated = Some(batch);
    }

    /// Something has come back that others may have to wait for: what was read is read again, in its order.
    pub(super) fn give_up_unreplicated(&mut self) {
        if let Some(batch) = self.unreplicated.take() {
            self.put_back(&batch.pending);
        }
    }
}
