//! Decides how long to wait between two sweeps, by the rate of events.
//!
//! A transaction to read, one to settle and a request to the broker for each partition cost about as much for one event
//! as for a hundred. So while there are few events, each is sent at once. The more events there are, the longer the relay
//! waits between two sweeps, and the more it finds in each. The wait grows with the rate, up to some milliseconds. For a
//! backlog there is no wait, since its events have waited already.

use std::time::Duration;

/// At this rate, in events per second, two sweeps are a millisecond apart.
const RATE_OF_A_MILLISECOND: f64 = 2_000.0;

/// The exponent with which the wait grows with the rate. It is above 1, since larger batches save more.
const GROWTH: f64 = 1.5;

/// The longest wait between two sweeps.
const LONGEST: Duration = Duration::from_millis(20);

/// How many times longer than a sweep a settlement waits: only listeners wait for it.
const SETTLEMENT: u32 = 4;

/// The time over which the rate is measured. It is long enough that three events in a row do not count as a high rate.
const MEMORY: Duration = Duration::from_millis(100);

/// Measures the rate of events from the sweeps. Times come from a monotonic clock, as durations since any point in time.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pace {
    /// Events per second.
    rate: f64,
    measured: Duration,
    swept: Option<Duration>,
    settled: Option<Duration>,
}

impl Pace {
    /// A sweep that began now has found this many events.
    pub fn swept(&mut self, now: Duration, found: usize) {
        let weight = (-self.age(now).as_secs_f64() / MEMORY.as_secs_f64()).exp();
        // Events that arrived at once count as spread over the whole of that time.
        self.rate = self.rate * weight + found as f64 / MEMORY.as_secs_f64();
        (self.measured, self.swept) = (now, Some(now));
    }

    /// A settlement began now.
    pub fn settled(&mut self, now: Duration) {
        self.settled = Some(now);
    }

    /// When to sweep next, if there is a reason to.
    #[must_use]
    pub fn next_sweep(&self, now: Duration) -> Duration {
        self.swept.map_or(now, |swept| swept + self.wait(now))
    }

    /// When to settle next, if there are reports.
    #[must_use]
    pub fn next_settlement(&self, now: Duration) -> Duration {
        self.settled.map_or(now, |settled| settled + SETTLEMENT * self.wait(now))
    }

    fn wait(&self, now: Duration) -> Duration {
        let rate = self.rate * (-self.age(now).as_secs_f64() / MEMORY.as_secs_f64()).exp();
        let millis = (rate / RATE_OF_A_MILLISECOND).powf(GROWTH);
        Duration::from_secs_f64(millis / 1e3).min(LONGEST)
    }

    fn age(&self, now: Duration) -> Duration {
        now.saturating_sub(self.measured)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn micros(n: u64) -> Duration {
        Duration::from_micros(n)
    }

    /// Events arrive at this rate for a second. Returns the longest wait for a sweep, and the number of sweeps.
    fn sweeps(rate: u64) -> (Duration, usize) {
        let (mut pace, mut sweeps, mut found, mut longest) = (Pace::default(), 0, 0, Duration::ZERO);
        for at in 0..1_000_000 {
            let now = micros(at);
            let come = at * rate / 1_000_000;
            let is_due = pace.next_sweep(now) <= now;
            if come > found && is_due {
                pace.swept(now, (come - found) as usize);
                (found, sweeps) = (come, sweeps + 1);
                longest = longest.max(pace.next_sweep(now) - now);
            }
        }
        (longest, sweeps)
    }

    #[test]
    fn few_events_go_one_by_one_and_at_once() {
        let (longest, count) = sweeps(100);
        assert!(count == 99 && longest < micros(150), "{count} sweeps, {longest:?}");
    }

    #[test]
    fn many_go_together() {
        let (longest, count) = sweeps(2_000);
        assert!((700..1_300).contains(&count) && longest < micros(1_500), "{count} sweeps, {longest:?}");
        let (longest, count) = sweeps(20_000);
        assert!((50..150).contains(&count) && longest == LONGEST, "{count} sweeps, {longest:?}");
    }

    #[test]
    fn after_a_rest_the_first_goes_at_once() {
        let mut pace = Pace::default();
        pace.swept(micros(0), 1_000_000);
        pace.settled(micros(0));
        assert_eq!(pace.next_sweep(micros(10)), LONGEST);
        assert_eq!(pace.next_settlement(micros(10)), SETTLEMENT * LONGEST);
        let later = Duration::from_secs(10);
        assert!(pace.next_sweep(later) <= later && pace.next_settlement(later) <= later);
    }
}
