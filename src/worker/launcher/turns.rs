//! Owns the queue of the workers that wait for a process, and who makes way for them.
//!
//! Runs in: the launcher.
//!
//! The queue lies in the slots: those in [`Phase::Queued`], by the time at which they entered it, and those of workers that
//! lack a helper ([`crate::worker::helpers`]). So `outbox.status` of each database shows that its relay waits, and since when.

use std::time::{Duration, Instant};

use event_outbox_policy::worker::turns::{self, Step, TURN, Working};
use pgrx::prelude::*;

use super::Launcher;
use crate::pg::user_error::UserError;
use crate::worker::kind::WorkerKey;
use crate::worker::phase::{Phase, Request};
use crate::worker::registration::{self, Registration};
use crate::worker::slot::Slot;
use crate::worker::{databases, slots, transaction};

/// How often a process is looked for while workers wait. The end of our own workers is told at once; that of others, such as
/// those of parallel queries, is not.
const RETRY: Duration = Duration::from_secs(1);

/// If no process has become free for so long, nobody makes way: two turns.
const REPORT_AFTER: Duration = Duration::from_secs(2 * TURN.as_secs());

/// How long an offer keeps what is free from those that have waited less. The worker is woken, and mostly answers in some
/// milliseconds; one that has just been started needs longer.
const OFFER: Duration = Duration::from_secs(1);

/// An offer to a worker that waits for a process for a helper.
#[derive(Clone, Copy)]
pub(super) struct Offer {
    at: Instant,
    /// Since when it had waited.
    short_since: i64,
    /// It has tried before, and there was none.
    has_tried: bool,
}

/// A worker that waits for a process.
#[derive(Clone, Copy)]
struct Waiting {
    since: i64,
    key: WorkerKey,
    slot: &'static Slot,
    /// It runs, and waits for one for a helper.
    is_running: bool,
}

/// The workers that wait for a process, the one that has waited longest first.
fn queue() -> Vec<Waiting> {
    let entry = |(key, slot): (WorkerKey, &'static Slot)| match slot.phase() {
        Phase::Queued => Some(Waiting { since: slot.phase_since(), key, slot, is_running: false }),
        Phase::Starting | Phase::Running => {
            let since = slot.helpers.short_since();
            (since != 0).then_some(Waiting { since, key, slot, is_running: true })
        }
        _ => None,
    };
    let mut queue: Vec<Waiting> = slots::all().in_use().filter_map(entry).collect();
    queue.sort_by_key(|waiting| waiting.since);
    queue
}

fn running() -> impl Iterator<Item = (WorkerKey, &'static Slot)> {
    slots::all().in_use().filter(|(_, slot)| slot.phase() == Phase::Running)
}

/// Whether a worker that waits was served.
enum Served {
    /// It has a process.
    Yes,
    /// No process is free.
    No,
    /// It will say in a moment: until then nobody behind it is served. Whether it has tried before.
    Unknown(bool),
    /// It does not answer: others need not wait for it.
    Silent,
}

/// A date in microseconds since 1970, by the clock of this process; [`i64::MAX`] is never.
pub(super) fn date_of(date: i64) -> Option<Instant> {
    let left = Duration::from_micros(u64::try_from(date.saturating_sub(crate::pg::now())).unwrap_or(0));
    (date != i64::MAX).then(|| Instant::now().checked_add(left)).flatten()
}

impl Launcher {
    /// Starts the workers that wait, as far as there are processes, and asks others to make way.
    pub(super) fn serve_queue(&mut self) {
        self.next_turn = None;
        let mut is_served = self.note_answers();
        let mut waiting = Vec::new();
        let mut is_full = false;
        for entry in queue() {
            let served = match entry {
                _ if is_full => Served::No,
                Waiting { is_running: true, .. } => self.offer(entry),
                Waiting { key, slot, since, .. } => self.start_queued(key, slot, since),
            };
            is_served |= matches!(served, Served::Yes);
            is_full |= matches!(served, Served::No | Served::Unknown(_));
            // For one that may find what it needs, nobody is to make way yet.
            if !matches!(served, Served::Yes | Served::Unknown(false)) {
                waiting.push(entry);
            }
        }
        if is_served || waiting.is_empty() {
            self.served_at = Instant::now();
        }
        if !waiting.is_empty() && self.served_at.elapsed() >= REPORT_AFTER {
            let queued = waiting.iter().filter(|entry| !entry.is_running);
            queued.for_each(|entry| self.report_wait(entry.key, entry.slot));
        }
        if !waiting.is_empty() || is_full {
            let until_retry = Instant::now() + RETRY;
            self.note_freed();
            let next = ask_to_make_way(&waiting, self.freed_at);
            self.next_turn = Some(next.map_or(until_retry, |date| date.min(until_retry)));
        }
    }

    /// Notes when a worker that had a process has left it.
    fn note_freed(&mut self) {
        let working: Vec<_> = running().map(|(key, slot)| (key, slot.phase_since())).collect();
        if self.working.iter().any(|of| !working.contains(of)) {
            self.freed_at = crate::pg::now();
        }
        self.working = working;
    }

    /// Starts a worker that has waited in the queue since then. If it will need further processes, it keeps its place there.
    fn start_queued(&mut self, key: WorkerKey, slot: &'static Slot, since: i64) -> Served {
        self.start(key, slot, since);
        if slot.key() == Some(key) && slot.phase() == Phase::Queued {
            return Served::No;
        }
        if slot.phase().is_alive() && slot.helpers.expect(since) {
            let state = self.workers.entry(key).or_default();
            state.offer = Some(Offer { at: Instant::now(), short_since: since, has_tried: false });
            return Served::Unknown(false);
        }
        Served::Yes
    }

    /// Offers what is free to a worker that waits for a process for a helper.
    fn offer(&mut self, waiting: Waiting) -> Served {
        let state = self.workers.entry(waiting.key).or_default();
        let offered = state.offer.filter(|offer| offer.short_since == waiting.since);
        match offered {
            Some(offer) if waiting.slot.helpers.is_offered() => {
                if offer.at.elapsed() < OFFER {
                    Served::Unknown(offer.has_tried)
                } else {
                    Served::Silent
                }
            }
            _ => {
                state.offer = Some(Offer { at: Instant::now(), short_since: waiting.since, has_tried: true });
                waiting.slot.helpers.offer();
                waiting.slot.wakeup.set_latch();
                Served::Unknown(true)
            }
        }
    }

    /// Forgets the offers that were taken up. Returns whether any was.
    fn note_answers(&mut self) -> bool {
        let is_open = |key: WorkerKey, offer: Offer| {
            slots::all().find(key).is_some_and(|slot| slot.helpers.short_since() == offer.short_since)
        };
        let mut is_any = false;
        for (key, state) in &mut self.workers {
            if state.offer.is_some_and(|offer| !is_open(*key, offer)) {
                state.offer = None;
                is_any = true;
            }
        }
        is_any
    }

    /// Whether a worker that is to be started must wait behind others.
    pub(super) fn must_queue(&self) -> bool {
        !queue().is_empty()
    }

    /// Says, once for each, that a worker waits although others had their turns.
    fn report_wait(&mut self, key: WorkerKey, slot: &Slot) {
        let state = self.workers.entry(key).or_default();
        if std::mem::replace(&mut state.is_wait_reported, true) {
            return;
        }
        let name =
            transaction::run(c"event_outbox: looking for a database", || databases::name(key.database));
        if let (Ok(name), Some(registration)) = (name, registration::of(key.kind)) {
            let error = no_process_for(registration, &name);
            slot.show_error(&error.to_string());
            error.log(PgLogLevel::WARNING);
        }
    }
}

/// Asks workers to make way for those that wait; the last one did at `freed_at`. Returns when to look again, if that would help.
fn ask_to_make_way(waiting: &[Waiting], freed_at: i64) -> Option<Instant> {
    let first = waiting.first().filter(|entry| entry.is_running).map(|entry| entry.slot.index());
    loop {
        let working: Vec<_> = running()
            .map(|(_, slot)| Working {
                worker: slot.index(),
                since: slot.phase_since().max(slot.helpers.complete_since()),
                is_first_in_line: Some(slot.index()) == first,
                idle_since: Some(slot.idle_since.load(std::sync::atomic::Ordering::Relaxed))
                    .filter(|since| *since != 0),
                is_leaving: slot.request() != Request::None,
            })
            .collect();
        match turns::next_step(crate::pg::now(), freed_at, waiting.len(), &working) {
            Step::Ask(index) => {
                let chosen = slots::all().in_use().find(|(_, slot)| slot.index() == index);
                let (_, slot) = chosen?;
                slot.ask_to_make_way();
                if slot.request() == Request::None {
                    return None;
                }
            }
            Step::LookAt(date) => return date_of(date),
            Step::Rest => return None,
        }
    }
}

fn no_process_for(registration: &Registration, database: &str) -> UserError {
    UserError {
        code: PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
        message: format!("no background worker is left for the {} of database \"{database}\"", registration.noun),
        detail: format!(
            "{} Workers of event_outbox take turns, but none has made way: others use the background workers.",
            registration.while_absent
        ),
        hint: "Raise max_worker_processes, by one for each database that has events all the time and one for the \
               launcher, and restart the server."
            .into(),
    }
}
