//! Owns the processes of handlers, or of projections: starts them, restarts those that ended, and ends those that are not
//! wanted any more. If there are fewer processes than tasks, the tasks take turns.
//!
//! Runs in: the ingest worker, main thread.

use std::time::{Duration, Instant};

use event_outbox_policy::backoff::Backoff;
use event_outbox_policy::worker::turns::TURN;
use pgrx::bgworkers::{BackgroundWorkerBuilder, BackgroundWorkerStatus, DynamicBackgroundWorker};

use crate::pg::backend;
use crate::worker::process;

/// The first and the longest pause before a process that ended, or could not be started, is started again.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// A process that lived as long as this did not fail at its start.
const STEADY: Duration = Duration::from_secs(10);

/// How often to look whether a process is free, while a task has none.
const RETRY: Duration = Duration::from_secs(1);

/// If a task has no process for so long, others leave none to it: two turns.
const REPORT_AFTER: Duration = Duration::from_secs(2 * TURN.as_secs());

/// What a process does. Its text is handed to the process: up to 127 bytes.
pub trait Task: Clone + PartialEq + std::fmt::Display {
    /// What `pg_stat_activity` calls the processes.
    const NAME: &'static str;
    /// The function that they begin with.
    const ENTRY: &'static str;

    /// What it is for, for a message.
    fn purpose(&self) -> String;
}

/// A task, and the number of processes that share it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted<T> {
    /// The task of each process.
    pub task: T,
    /// The number of processes.
    pub workers: usize,
}

/// The place of a process.
struct Place<T> {
    task: T,
    process: Option<DynamicBackgroundWorker>,
    started_at: Instant,
    /// When its last process ended.
    ended_at: Option<Instant>,
    /// Postgres had no background worker left for it.
    is_refused: bool,
    /// It was asked to end, for the sake of another task.
    is_leaving: bool,
    backoff: Backoff,
}

/// The processes of one kind in this database.
pub struct Supervisor<T: Task> {
    places: Vec<Place<T>>,
    /// Since when a task has had no process, because Postgres has none left.
    short_since: Option<Instant>,
    /// It was said that a task has none.
    is_reported: bool,
}

impl<T: Task> Default for Supervisor<T> {
    fn default() -> Self {
        Self { places: Vec::new(), short_since: None, is_reported: false }
    }
}

impl<T: Task> Supervisor<T> {
    /// What is wanted from now on. Processes with another task are asked to end after their transaction.
    pub fn set(&mut self, tasks: &[Wanted<T>]) {
        let mut wanted: Vec<&T> =
            tasks.iter().flat_map(|wanted| std::iter::repeat_n(&wanted.task, wanted.workers)).collect();
        let places = std::mem::take(&mut self.places);
        for place in places {
            match wanted.iter().position(|task| **task == place.task) {
                Some(at) => {
                    wanted.swap_remove(at);
                    self.places.push(place);
                }
                None => place.leave(),
            }
        }
        self.places.extend(wanted.into_iter().map(|task| Place::new(task.clone())));
    }

    /// Starts the processes that are missing and may be started now. While others wait for a process, only the launcher's offer
    /// allows that, and only to tasks without any. Returns what to report, if others leave no process to a task.
    pub fn tend(&mut self, is_offered: bool, others_wait: bool) -> Option<String> {
        self.places.iter_mut().for_each(Place::note_end);
        for at in self.order() {
            let is_first = !self.has_process(&self.places[at].task);
            let place = &mut self.places[at];
            let is_due = place.backoff.is_over(Instant::now());
            if place.process.is_some() || !(is_due || is_offered && is_first && place.is_refused) {
                continue;
            }
            if others_wait && !(is_offered && is_first) {
                place.is_refused = true;
            } else if !place.start() {
                break;
            }
        }
        if self.lacking() == 0 {
            (self.short_since, self.is_reported) = (None, false);
            return None;
        }
        let since = *self.short_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= TURN {
            self.end_a_turn();
        }
        let is_due = since.elapsed() >= REPORT_AFTER && !std::mem::replace(&mut self.is_reported, true);
        let place = self.places.iter().find(|place| self.is_lacking(place)).filter(|_| is_due)?;
        Some(format!("no background worker is left for {}: raise max_worker_processes", place.task.purpose()))
    }

    /// The order in which to start: the first process of each task before the second one of any. Of equals, who has waited
    /// longest; at first, others in each process, because the next one comes to the same shortage.
    fn order(&self) -> Vec<usize> {
        let running = |task: &T| {
            self.places.iter().filter(|place| place.process.is_some() && place.task == *task).count()
        };
        let ahead = |at: usize| {
            let of_task = |place: &&Place<T>| place.process.is_none() && place.task == self.places[at].task;
            self.places[..at].iter().filter(of_task).count()
        };
        let turn = usize::try_from(backend::pid()).unwrap_or(0);
        let mut order: Vec<usize> = (0..self.places.len()).collect();
        order.sort_by_cached_key(|at| {
            let place = &self.places[*at];
            (running(&place.task) + ahead(*at), place.ended_at, (at + turn) % self.places.len())
        });
        order
    }

    fn has_process(&self, task: &T) -> bool {
        self.places.iter().any(|place| place.process.is_some() && place.task == *task)
    }

    fn is_lacking(&self, place: &Place<T>) -> bool {
        place.is_refused && !self.has_process(&place.task)
    }

    /// The tasks, each of which needs a process.
    fn tasks(&self) -> impl Iterator<Item = &Place<T>> {
        let is_first = |at: usize, task: &T| self.places[..at].iter().all(|place| place.task != *task);
        self.places
            .iter()
            .enumerate()
            .filter(move |(at, place)| is_first(*at, &place.task))
            .map(|(_, place)| place)
    }

    /// How many tasks there are.
    #[must_use]
    pub fn task_count(&self) -> usize {
        self.tasks().count()
    }

    /// How many of them have no process, because Postgres has none left.
    #[must_use]
    pub fn lacking(&self) -> usize {
        let lacks =
            |of: &&Place<T>| self.places.iter().any(|place| place.task == of.task && self.is_lacking(place));
        self.tasks().filter(lacks).count()
    }

    /// Has the process that has worked longest make way for a task that has none.
    fn end_a_turn(&mut self) {
        if self.places.iter().any(|place| place.is_leaving) {
            return;
        }
        let working = self.places.iter_mut().filter(|place| place.started_at.elapsed() >= TURN);
        let longest =
            working.filter_map(|place| Some((place.pid()?, place))).min_by_key(|(_, place)| place.started_at);
        if let Some((pid, place)) = longest {
            place.is_leaving = true;
            process::ask_to_leave(pid);
        }
    }

    /// When to call [`Supervisor::tend`] again, if nothing wakes the worker.
    pub fn next_date(&self) -> Option<Instant> {
        let retry = self.short_since.map(|_| Instant::now() + RETRY);
        self.places
            .iter()
            .filter(|place| place.process.is_none())
            .filter_map(|place| place.backoff.until())
            .chain(retry)
            .min()
    }

    /// Asks all processes to end after their transactions.
    pub fn leave(&mut self) {
        self.places.drain(..).for_each(Place::leave);
    }
}

impl<T: Task> Drop for Supervisor<T> {
    fn drop(&mut self) {
        self.leave();
    }
}

impl<T: Task> Place<T> {
    fn new(task: T) -> Self {
        Self {
            task,
            process: None,
            started_at: Instant::now(),
            ended_at: None,
            is_refused: false,
            is_leaving: false,
            backoff: Backoff::new(PAUSE.0, PAUSE.1),
        }
    }

    /// Takes note if its process has ended.
    fn note_end(&mut self) {
        let ended = |process: &DynamicBackgroundWorker| {
            matches!(
                process.pid(),
                Err(BackgroundWorkerStatus::Stopped | BackgroundWorkerStatus::PostmasterDied)
            )
        };
        if self.process.take_if(|process| ended(process)).is_some() {
            self.ended_at = Some(Instant::now());
            if std::mem::take(&mut self.is_leaving) || self.started_at.elapsed() >= STEADY {
                self.backoff.record_success();
            }
            self.backoff.record_failure(Instant::now());
        }
    }

    /// Starts a process. Returns `false` if Postgres has none left.
    fn start(&mut self) -> bool {
        let started = BackgroundWorkerBuilder::new(T::NAME)
            .set_type(T::NAME)
            .set_library("event_outbox")
            .set_function(T::ENTRY)
            .set_extra(&self.task.to_string())
            .set_restart_time(None)
            .set_notify_pid(backend::pid())
            .enable_spi_access()
            .load_dynamic();
        self.started_at = Instant::now();
        self.is_refused = started.is_err();
        match started {
            Ok(process) => self.process = Some(process),
            Err(_) => {
                self.backoff.record_failure(Instant::now());
            }
        }
        !self.is_refused
    }

    /// Its process, if it runs.
    fn pid(&self) -> Option<i32> {
        self.process.as_ref().and_then(|process| process.pid().ok())
    }

    /// Lets its process end after its transaction.
    fn leave(self) {
        match (self.pid(), self.process) {
            (Some(pid), _) => process::ask_to_leave(pid),
            // One that has not begun is not started any more.
            (None, Some(process)) => drop(process.terminate()),
            (None, None) => {}
        }
    }
}
