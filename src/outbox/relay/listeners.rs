//! Owns the notifications that listeners miss while the NOTIFY queue is full.
//!
//! Runs in: a relay's background worker, main thread.
//!
//! The whole server has one queue, and a session that listens and leaves a transaction open prevents it from
//! being emptied. So a settlement that fails because the queue is full is repeated without notifications. The
//! relay stores the missed ones as ranges of offsets, and sends them when there is room again. Nothing wakes
//! it then, so it retries.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use event_outbox_policy::backoff::Backoff;
use event_outbox_policy::delivery::notify::{Missed, Mode, Notification, Published};
use pgrx::prelude::PgSqlErrorCode;

use super::Relay;
use crate::outbox::table::statements::{self, Refusal};
use crate::pg::snapshot::Snapshot;
use crate::worker::transaction::{self, Failed};

/// The first and the longest time between two tries.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

/// How many dead events are stored for later notification.
const MAX_DEAD: usize = 1_000;

/// A channel that nobody listens to. A notification to it shows whether there is room.
const PROBE: &str = "outbox_probe";

/// The error that is shown while there is no room. `outbox.check()` recognizes its beginning.
const TEXT: &str =
    "the NOTIFY queue of the server is full: events are published, and listeners are notified later";

/// The missed notifications, and when to try again.
#[derive(Debug)]
pub struct Listeners {
    missed: Missed,
    dead: VecDeque<[u8; 16]>,
    pause: Backoff,
}

impl Default for Listeners {
    fn default() -> Self {
        Self { missed: Missed::default(), dead: VecDeque::new(), pause: Backoff::new(PAUSE.0, PAUSE.1) }
    }
}

impl Listeners {
    /// Whether listeners can be notified, as far as is known.
    #[must_use]
    pub fn are_reachable(&self) -> bool {
        self.pause.until().is_none()
    }

    /// When to try again.
    #[must_use]
    pub fn until(&self) -> Option<Instant> {
        self.pause.until()
    }
}

/// Whether a transaction failed with the error that a full queue causes.
#[must_use]
pub fn is_full_queue(failed: &Failed) -> bool {
    failed.code == PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED
}

impl Relay {
    /// Stores the notifications that a settlement did not send: of published events, and of dead ones, which
    /// are the refused events that do not wait for another attempt.
    pub(super) fn remember_missed<'a>(
        &mut self,
        published: &[Published],
        refused: impl Iterator<Item = &'a Refusal>,
        waiting: &HashMap<i64, i64>,
    ) {
        if self.settings.notify != Mode::Off {
            self.listeners.missed.add(published);
        }
        let dead = refused.filter(|refusal| !waiting.contains_key(&refusal.row.id));
        self.listeners.dead.extend(dead.map(|refusal| refusal.row.event_id));
        while self.listeners.dead.len() > MAX_DEAD {
            self.listeners.dead.pop_front();
        }
        if self.listeners.are_reachable() {
            self.listeners.pause.record_failure(Instant::now());
            self.slot.show_error(TEXT);
            tracing::warn!("{TEXT}; SELECT * FROM outbox.check() shows which session may be the cause");
        }
    }

    /// Tries to send the missed notifications, when that is due.
    pub(super) fn notify_of_missed(&mut self) {
        if self.listeners.are_reachable()
            || !self.listeners.pause.is_over(Instant::now())
            || !self.db_backoff.is_over(Instant::now())
        {
            return;
        }
        let sent = transaction::run(c"event_outbox: sending missed notifications", || {
            self.outbox()?;
            let _snapshot = Snapshot::take();
            statements::empty_notify_queue();
            let probe = Notification { channel: PROBE.into(), payload: String::new() };
            statements::notify(self.listeners.missed.notifications().into_iter().chain([probe]).collect());
            let dead: Vec<_> = self.listeners.dead.iter().copied().collect();
            statements::notify_of_dead(&dead);
            Some(())
        });
        match sent {
            Ok(Some(())) => {
                self.listeners = Listeners::default();
                tracing::info!("missed notifications have been sent; the NOTIFY queue has room again");
            }
            Ok(None) => self.extension_dropped = true,
            Err(failed) if is_full_queue(&failed) => {
                self.listeners.pause.record_failure(Instant::now());
                self.slot.show_error(TEXT);
            }
            Err(failed) => {
                self.listeners.pause.record_failure(Instant::now());
                self.note::<()>(Err(failed));
            }
        }
    }
}
