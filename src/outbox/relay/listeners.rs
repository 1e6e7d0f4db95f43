//! Listeners that cannot be told, since the queue of notifications is full.
//!
//! It is one for the whole server, and whoever listens and then leaves a transaction open keeps it from being
//! emptied. So a settlement that fails at it is done without a word. What listeners have missed is
//! remembered, as ranges of offsets, and told when there is room again, which nobody rings for.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use event_outbox_policy::backoff::Backoff;
use event_outbox_policy::delivery::notify::{Missed, Mode, Notification, Published};
use pgrx::prelude::PgSqlErrorCode;

use super::Relay;
use crate::outbox::table::statements::{self, Refusal};
use crate::pg::snapshot::Snapshot;
use crate::worker::transaction::{self, Failed};

/// First and longest time between two tries.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

/// Of so many dead events listeners hear later.
const MAX_DEAD: usize = 1_000;

/// Whom nobody listens to: it shows whether there is room.
const PROBE: &str = "outbox_probe";

/// What is shown while there is none; `outbox.check()` goes by its beginning.
const TEXT: &str =
    "the NOTIFY queue of the server is full: events are published, and listeners hear of them later";

/// What listeners have missed, and when to try again.
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
    /// Whether they can be told, as far as is known.
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

/// Whether a transaction failed with what a full queue makes it fail with.
#[must_use]
pub fn is_full_queue(failed: &Failed) -> bool {
    failed.code == PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED
}

impl Relay {
    /// A settlement has told nobody: of what was published, and of what is dead, as all refused ones that
    /// wait for no attempt.
    pub(super) fn remember_untold<'a>(
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
            tracing::warn!("{TEXT}; SELECT * FROM outbox.check() tells who may keep it so");
        }
    }

    /// Tries to tell listeners what they have missed, when it is time to.
    pub(super) fn tell_untold(&mut self) {
        if self.listeners.are_reachable()
            || !self.listeners.pause.is_over(Instant::now())
            || !self.db_backoff.is_over(Instant::now())
        {
            return;
        }
        let told = transaction::run(c"event_outbox: telling listeners what they missed", || {
            self.outbox()?;
            let _snapshot = Snapshot::take();
            statements::empty_notify_queue();
            let probe = Notification { channel: PROBE.into(), payload: String::new() };
            statements::notify(self.listeners.missed.notifications().into_iter().chain([probe]).collect());
            let dead: Vec<_> = self.listeners.dead.iter().copied().collect();
            statements::notify_of_dead(&dead);
            Some(())
        });
        match told {
            Ok(Some(())) => {
                self.listeners = Listeners::default();
                tracing::info!("listeners have been told what they missed while the NOTIFY queue was full");
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
