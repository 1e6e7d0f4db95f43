//! Owns the queue of the workers that wait for a process, and who makes way for them.
//!
//! Runs in: the launcher.
//!
//! The queue lies in the slots: those in [`Phase::Queued`], by the time at which they entered it. So `outbox.status` of
//! each database shows that its relay waits, and since when.

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

/// The workers that wait for a process, the one that has waited longest first.
fn queue() -> Vec<(WorkerKey, &'static Slot)> {
    let mut queue: Vec<_> = slots::all().in_use().filter(|(_, slot)| slot.phase() == Phase::Queued).collect();
    queue.sort_by_key(|(_, slot)| slot.phase_since());
    queue
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
        let mut waiting = queue();
        let mut served = 0;
        for (key, slot) in &waiting {
            self.start(*key, slot, slot.phase_since());
            if slot.key() == Some(*key) && slot.phase() == Phase::Queued {
                break;
            }
            served += 1;
        }
        waiting.drain(..served);
        if served > 0 || waiting.is_empty() {
            self.served_at = Instant::now();
        }
        if !waiting.is_empty() {
            if self.served_at.elapsed() >= REPORT_AFTER {
                waiting.iter().for_each(|(key, slot)| self.report_wait(*key, slot));
            }
            let until_retry = Instant::now() + RETRY;
            self.next_turn =
                Some(ask_to_make_way(waiting.len()).map_or(until_retry, |date| date.min(until_retry)));
        }
    }

    /// Whether a worker that is to be started must wait behind others.
    pub(super) fn must_queue(&self) -> bool {
        slots::all().in_use().any(|(_, slot)| slot.phase() == Phase::Queued)
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

/// Asks workers to make way for those that wait. Returns when to look again, if that would help.
fn ask_to_make_way(waiting: usize) -> Option<Instant> {
    loop {
        let working: Vec<_> = slots::all()
            .in_use()
            .filter(|(_, slot)| slot.phase() == Phase::Running)
            .map(|(_, slot)| Working {
                worker: slot.index(),
                since: slot.phase_since(),
                idle_since: Some(slot.idle_since.load(std::sync::atomic::Ordering::Relaxed))
                    .filter(|since| *since != 0),
                is_leaving: slot.request() != Request::None,
            })
            .collect();
        match turns::next_step(crate::pg::now(), waiting, &working) {
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
