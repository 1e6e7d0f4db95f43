//! Decides when to read the whole table, which finds the rows that nothing has announced.

use std::time::Duration;

/// The date of the next full sweep. Times come from a monotonic clock, as durations since the start of the relay. The first
/// full sweep is due at the start.
#[derive(Debug, Clone, Copy, Default)]
pub struct FullSweeps {
    next: Duration,
}

impl FullSweeps {
    /// Whether a full sweep is due. If so, the next one is due after `interval`.
    #[must_use]
    pub fn take_due(&mut self, now: Duration, interval: Duration) -> bool {
        let is_due = now >= self.next;
        if is_due {
            self.next = now + interval;
        }
        is_due
    }

    /// Applies a changed interval: the next full sweep comes no later than after `interval`.
    pub fn bring_forward(&mut self, now: Duration, interval: Duration) {
        self.next = self.next.min(now + interval);
    }

    /// When the next full sweep is due.
    #[must_use]
    pub fn next(&self) -> Duration {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_first_is_due_at_the_start_and_each_other_after_the_interval() {
        let mut sweeps = FullSweeps::default();
        assert!(sweeps.take_due(at(0), MINUTE));
        assert!(!sweeps.take_due(at(59), MINUTE));
        assert!(sweeps.take_due(at(70), MINUTE));
        assert_eq!(sweeps.next(), at(130), "late sweeps do not pile up");
    }

    #[test]
    fn a_shorter_interval_applies_at_once_and_a_longer_one_after_the_next() {
        let mut sweeps = FullSweeps::default();
        assert!(sweeps.take_due(at(0), MINUTE));
        sweeps.bring_forward(at(10), at(3600));
        assert_eq!(sweeps.next(), at(60));
        sweeps.bring_forward(at(10), at(5));
        assert_eq!(sweeps.next(), at(15));
    }
}
