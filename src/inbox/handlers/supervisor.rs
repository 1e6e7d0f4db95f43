//! Owns the processes of handlers, or of projections: starts them, restarts those that ended, and ends those that are not
//! wanted any more.
//!
//! Runs in: the ingest worker, main thread.

use std::time::{Duration, Instant};

use event_outbox_policy::backoff::Backoff;
use pgrx::bgworkers::{BackgroundWorkerBuilder, BackgroundWorkerStatus, DynamicBackgroundWorker};

use crate::pg::backend;

/// The first and the longest pause before a process that ended, or could not be started, is started again.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// A process that lived as long as this did not fail at its start.
const STEADY: Duration = Duration::from_secs(10);

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
    backoff: Backoff,
}

/// The processes of one kind in this database.
pub struct Supervisor<T: Task> {
    places: Vec<Place<T>>,
}

impl<T: Task> Default for Supervisor<T> {
    fn default() -> Self {
        Self { places: Vec::new() }
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
                None => place.end(),
            }
        }
        self.places.extend(wanted.into_iter().map(|task| Place::new(task.clone())));
    }

    /// Starts the processes that are missing and may be started now.
    pub fn tend(&mut self) {
        self.places.iter_mut().for_each(Place::tend);
    }

    /// When to call [`Supervisor::tend`] again, if nothing wakes the worker.
    pub fn next_date(&self) -> Option<Instant> {
        self.places
            .iter()
            .filter(|place| place.process.is_none())
            .filter_map(|place| place.backoff.until())
            .min()
    }

    /// Asks all processes to end.
    pub fn stop(&mut self) {
        self.places.drain(..).for_each(Place::end);
    }
}

impl<T: Task> Drop for Supervisor<T> {
    fn drop(&mut self) {
        self.stop();
    }
}

impl<T: Task> Place<T> {
    fn new(task: T) -> Self {
        Self { task, process: None, started_at: Instant::now(), backoff: Backoff::new(PAUSE.0, PAUSE.1) }
    }

    fn tend(&mut self) {
        let ended = |process: &DynamicBackgroundWorker| {
            matches!(
                process.pid(),
                Err(BackgroundWorkerStatus::Stopped | BackgroundWorkerStatus::PostmasterDied)
            )
        };
        if self.process.take_if(|process| ended(process)).is_some() {
            if self.started_at.elapsed() >= STEADY {
                self.backoff.record_success();
            }
            self.backoff.record_failure(Instant::now());
        }
        if self.process.is_none() && self.backoff.is_over(Instant::now()) {
            self.start();
        }
    }

    fn start(&mut self) {
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
        match started {
            Ok(process) => self.process = Some(process),
            Err(_) => {
                if self.backoff.record_failure(Instant::now()) {
                    let purpose = self.task.purpose();
                    tracing::warn!("no background worker is left for {purpose}: raise max_worker_processes");
                }
            }
        }
    }

    fn end(self) {
        if let Some(process) = self.process {
            process.terminate();
        }
    }
}
