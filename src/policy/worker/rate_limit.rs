//! The rate limit for work that others can request as often as they like.

use std::time::Duration;

/// Allows a burst, and after it one in each period.
///
/// This is the generic cell rate algorithm of ITU-T I.371. Its only state is the theoretical arrival time of the
/// next request, which the caller keeps: microseconds since an epoch of the caller's, initially 0.
#[derive(Debug, Clone, Copy)]
pub struct RateLimit {
    /// How many are allowed at once.
    pub burst: u32,
    /// The time after which one more is allowed.
    pub period: Duration,
}

impl RateLimit {
    /// When the next one is allowed.
    #[must_use]
    pub fn next_allowed(self, arrival: i64) -> i64 {
        arrival.saturating_sub(self.micros().saturating_mul(i64::from(self.burst.saturating_sub(1))))
    }

    /// Records one at `now`, and returns the new theoretical arrival time.
    #[must_use]
    pub fn record(self, arrival: i64, now: i64) -> i64 {
        arrival.max(now).saturating_add(self.micros())
    }

    fn micros(self) -> i64 {
        i64::try_from(self.period.as_micros()).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: RateLimit = RateLimit { burst: 3, period: Duration::from_micros(10) };

    /// Does the work whenever it is allowed, up to `until`, and returns the times.
    fn flood(from: i64, until: i64) -> Vec<i64> {
        let (mut arrival, mut now, mut done) = (0, from, vec![]);
        while now <= until {
            if LIMIT.next_allowed(arrival) <= now {
                arrival = LIMIT.record(arrival, now);
                done.push(now);
            } else {
                now += 1;
            }
        }
        done
    }

    #[test]
    fn a_burst_is_allowed_and_then_one_in_each_period() {
        assert_eq!(flood(1_000, 1_045), [1_000, 1_000, 1_000, 1_010, 1_020, 1_030, 1_040]);
    }

    #[test]
    fn rare_requests_never_wait() {
        let mut arrival = 0;
        for now in (1_000..2_000).step_by(10) {
            assert!(LIMIT.next_allowed(arrival) <= now);
            arrival = LIMIT.record(arrival, now);
        }
    }

    #[test]
    fn the_extremes_are_harmless() {
        let most = RateLimit { burst: u32::MAX, period: Duration::MAX };
        assert_eq!(most.record(i64::MAX, i64::MAX), i64::MAX);
        assert!(most.next_allowed(0) <= 0);
        assert_eq!(RateLimit { burst: 0, period: Duration::ZERO }.next_allowed(5), 5);
    }
}
