//! Decides what becomes of an event that failed alone.

use std::time::Duration;

use crate::delivery::attempts;
use crate::delivery::lanes::Micros;

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It may be received again at this time.
    RetryAt(Micros),
    /// Its attempts are used up.
    Dead,
}

/// The fate of an event that has now failed `attempts` times, at `now`. `backoff` are the first and the longest wait, and
/// `jitter` is a random number from 0 to 1.
#[must_use]
pub fn fate(
    attempts: u32,
    max_attempts: u32,
    backoff: (Duration, Duration),
    now: Micros,
    jitter: f64,
) -> Fate {
    if attempts >= max_attempts {
        return Fate::Dead;
    }
    let wait = attempts::delay(attempts, backoff.0, backoff.1, jitter);
    Fate::RetryAt(now.saturating_add(Micros::try_from(wait.as_micros()).unwrap_or(Micros::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_until_the_last_attempt() {
        let fate = |attempts| fate(attempts, 4, (Duration::from_secs(1), Duration::from_secs(60)), 5, 1.0);
        assert_eq!([1, 2, 3].map(fate), [1, 2, 4].map(|seconds| Fate::RetryAt(5 + seconds * 1_000_000)));
        assert_eq!(fate(4), Fate::Dead);
        assert_eq!(fate(5), Fate::Dead);
    }
}
