//! Owns the pauses that double while an operation keeps failing.

use std::ops::Add;
use std::time::{Duration, Instant};

/// A pause that doubles each time it is taken, from `first` up to `longest`.
#[derive(Debug, Clone, Copy)]
pub struct Doubling {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Doubling {
    /// A pause that starts with `first`.
    #[must_use]
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// Takes the next pause. The one after it is twice as long.
    pub fn take(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.longest);
        pause
    }

    /// The next pause, without taking it.
    #[must_use]
    pub const fn peek(&self) -> Duration {
        self.next
    }

    /// Starts with `first` again.
    pub const fn reset(&mut self) {
        self.next = self.first;
    }
}

/// When an operation that keeps failing may be tried again. Times come from a monotonic clock.
#[derive(Debug)]
pub struct Backoff<T = Instant> {
    pause: Doubling,
    until: Option<T>,
}

impl<T: Copy + Ord + Add<Duration, Output = T>> Backoff<T> {
    /// Starts without a failure. Pauses double from `first` up to `longest`.
    #[must_use]
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { pause: Doubling::new(first, longest), until: None }
    }

    /// Whether the operation may be tried now.
    #[must_use]
    pub fn is_over(&self, now: T) -> bool {
        self.until.is_none_or(|until| until <= now)
    }

    /// When the operation may be tried, if it has not succeeded since the last pause began.
    #[must_use]
    pub fn until(&self) -> Option<T> {
        self.until
    }

    /// Begins the next pause, after a failure. Returns whether it is the first failure in a row.
    pub fn record_failure(&mut self, now: T) -> bool {
        let is_first = self.until.is_none();
        self.until = Some(now + self.pause.take());
        is_first
    }

    /// Begins the first pause, after an end that was not a failure. Repeated ends do not lengthen the pause.
    pub fn record_end(&mut self, now: T) {
        self.pause.reset();
        self.until = Some(now + self.pause.peek());
    }

    /// Ends all pauses, after a success. Returns whether there were failures before.
    pub fn record_success(&mut self) -> bool {
        self.pause.reset();
        self.until.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn backoff() -> Backoff<Duration> {
        Backoff::new(SECOND, SECOND * 5)
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_again_after_a_success() {
        let mut backoff = backoff();
        let mut now = Duration::ZERO;
        assert!(backoff.is_over(now));
        for pause in [1, 2, 4, 5, 5] {
            assert_eq!(backoff.record_failure(now), now == Duration::ZERO);
            let until = now + SECOND * pause;
            assert_eq!(backoff.until(), Some(until));
            assert!(!backoff.is_over(until - Duration::from_nanos(1)) && backoff.is_over(until));
            now = until;
        }
        assert!(backoff.record_success() && !backoff.record_success());
        assert!(backoff.record_failure(now));
        assert_eq!(backoff.until(), Some(now + SECOND));
    }

    #[test]
    fn an_end_that_is_no_failure_always_waits_for_the_first_pause() {
        let mut backoff = backoff();
        backoff.record_failure(Duration::ZERO);
        for now in [SECOND, SECOND * 10] {
            backoff.record_end(now);
            assert_eq!(backoff.until(), Some(now + SECOND));
        }
        // The next failure does not count as the first in a row.
        assert!(!backoff.record_failure(SECOND * 20));
    }
}
