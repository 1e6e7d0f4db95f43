//! Pauses between tries that fail again and again. Runs in: a worker's main thread, and the launcher.

use std::time::{Duration, Instant};

/// Nothing may be tried before a moment; each failure in a row doubles the pause.
#[derive(Debug)]
pub struct Pause {
    first: Duration,
    longest: Duration,
    next: Duration,
    until: Option<Instant>,
}

impl Pause {
    /// No failure yet; pauses from `first`, doubled up to `longest`.
    #[must_use]
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first, until: None }
    }

    /// Whether it may be tried.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.until.is_none_or(|until| until <= Instant::now())
    }

    /// When it may be tried, if a failure was the last that happened.
    #[must_use]
    pub fn until(&self) -> Option<Instant> {
        self.until
    }

    /// It failed; says whether for the first time in a row.
    pub fn failed(&mut self) -> bool {
        let first = self.until.is_none();
        self.until = Some(Instant::now() + self.next);
        self.next = (self.next * 2).min(self.longest);
        first
    }

    /// It ended without failing: what follows waits for the first pause, however often that happens.
    pub fn paused(&mut self) {
        self.next = self.first;
        self.until = Some(Instant::now() + self.first);
    }

    /// It succeeded; says whether after failures.
    pub fn succeeded(&mut self) -> bool {
        self.next = self.first;
        self.until.take().is_some()
    }
}
