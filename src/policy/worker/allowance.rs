//! How often something may be done that others can ask for as often as they like.

use std::time::Duration;

/// So many at once; after them one in each period.
///
/// The generic cell rate algorithm of ITU-T I.371: all that is remembered is the theoretical arrival time of the next, a
/// time in microseconds since an epoch of the caller's, 0 at the beginning.
#[derive(Debug, Clone, Copy)]
pub struct Allowance {
    /// How many at once.
    pub burst: u32,
    /// The time in which one more is allowed.
    pub period: Duration,
}

impl Allowance {
    /// From when on the next may be done.
    #[must_use]
    pub fn next(self, arrival: i64) -> i64 {
        arrival.saturating_sub(self.micros().saturating_mul(i64::from(self.burst.saturating_sub(1))))
    }

    /// It is done: what to remember from now on.
    #[must_use]
    pub fn done(self, arrival: i64, now: i64) -> i64 {
        arrival.max(now).saturating_add(self.micros())
    }

    fn micros(self) -> i64 {
        i64::try_from(self.period.as_micros()).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOWED: Allowance = Allowance { burst: 3, period: Duration::from_micros(10) };

    /// Does it as soon as it may be, up to `until`; gives when.
    fn flood(from: i64, until: i64) -> Vec<i64> {
        let (mut arrival, mut now, mut done) = (0, from, vec![]);
        while now <= until {
            if ALLOWED.next(arrival) <= now {
                arrival = ALLOWED.done(arrival, now);
                done.push(now);
            } else {
                now += 1;
            }
        }
        done
    }

    #[test]
    fn some_at_once_and_then_one_in_each_period() {
        assert_eq!(flood(1_000, 1_045), [1_000, 1_000, 1_000, 1_010, 1_020, 1_030, 1_040]);
    }

    #[test]
    fn what_is_asked_for_seldom_never_waits() {
        let mut arrival = 0;
        for now in (1_000..2_000).step_by(10) {
            assert!(ALLOWED.next(arrival) <= now);
            arrival = ALLOWED.done(arrival, now);
        }
    }

    #[test]
    fn the_extremes_are_harmless() {
        let most = Allowance { burst: u32::MAX, period: Duration::MAX };
        assert_eq!(most.done(i64::MAX, i64::MAX), i64::MAX);
        assert!(most.next(0) <= 0);
        assert_eq!(Allowance { burst: 0, period: Duration::ZERO }.next(5), 5);
    }
}
