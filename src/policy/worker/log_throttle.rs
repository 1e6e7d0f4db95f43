//! Throttles log lines about repeated events: the first of a kind is logged at once, the others as a count.
//!
//! A misspelt topic can have hundreds of thousands of refused events. One line for each would fill the disk that
//! holds the log, and would bury everything else in it.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

/// The time from the first of a kind to its first count, and the longest time between two counts. A kind that has not
/// occurred for that long counts as new again.
const INTERVAL: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(600));

/// How many kinds are counted separately. All further kinds share one count.
const MAX_KINDS: usize = 100;

/// The occurrences that have not been logged yet. Times are since an epoch of the caller's.
#[derive(Debug)]
pub struct LogThrottle<K> {
    kinds: HashMap<K, Kind>,
    others: Option<Kind>,
}

#[derive(Debug)]
struct Kind {
    unlogged: u64,
    interval: Duration,
    /// When to log how many there were, or to forget the kind if there were none.
    at: Duration,
}

/// A count to log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepeatCount<K> {
    /// What happened; `None` for the kinds that share one count.
    pub kind: Option<K>,
    /// How often it happened since it was last logged.
    pub count: u64,
}

impl<K> Default for LogThrottle<K> {
    fn default() -> Self {
        Self { kinds: HashMap::new(), others: None }
    }
}

impl<K: Hash + Eq + Clone> LogThrottle<K> {
    /// Records `count` occurrences. Returns whether to log one now, because they are the first of their kind.
    #[must_use]
    pub fn record(&mut self, kind: &K, count: u64, now: Duration) -> bool {
        if let Some(known) = self.kinds.get_mut(kind) {
            return known.add(count, now);
        }
        if self.kinds.len() >= MAX_KINDS {
            self.kinds.retain(|_, known| known.unlogged > 0 || known.at > now);
        }
        if self.kinds.len() < MAX_KINDS {
            self.kinds.insert(kind.clone(), Kind::first(now));
            return true;
        }
        match &mut self.others {
            Some(others) => others.add(count, now),
            None => {
                self.others = Some(Kind::first(now));
                true
            }
        }
    }

    /// Takes the counts that are due to be logged.
    pub fn due(&mut self, now: Duration) -> Vec<RepeatCount<K>> {
        let kinds = self.kinds.iter_mut().map(|(kind, known)| (Some(kind), known));
        kinds
            .chain(self.others.iter_mut().map(|others| (None, others)))
            .filter(|(_, known)| known.unlogged > 0 && known.at <= now)
            .map(|(kind, known)| RepeatCount { kind: kind.cloned(), count: known.take_count(now) })
            .collect()
    }

    /// When the first count is due; `None` while there is none.
    #[must_use]
    pub fn next_due(&self) -> Option<Duration> {
        self.kinds.values().chain(&self.others).filter(|known| known.unlogged > 0).map(|known| known.at).min()
    }
}

impl Kind {
    fn first(now: Duration) -> Self {
        Self { unlogged: 0, interval: INTERVAL.0, at: now + INTERVAL.0 }
    }

    /// Returns whether the kind is new again: none occurred since the last count and until the next was due.
    fn add(&mut self, count: u64, now: Duration) -> bool {
        if self.unlogged == 0 && self.at <= now {
            *self = Self::first(now);
            return true;
        }
        self.unlogged = self.unlogged.saturating_add(count);
        false
    }

    fn take_count(&mut self, now: Duration) -> u64 {
        self.interval = (self.interval * 2).min(INTERVAL.1);
        self.at = now + self.interval;
        std::mem::take(&mut self.unlogged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_first_is_logged_and_the_others_are_counted() {
        let mut throttle = LogThrottle::default();
        assert!(throttle.record(&"a", 5, SECOND));
        assert_eq!(throttle.next_due(), None);
        assert!(!throttle.record(&"a", 7, SECOND * 2));
        assert!(!throttle.record(&"a", 8, SECOND * 3));
        assert!(throttle.record(&"b", 1, SECOND * 3));
        assert_eq!(throttle.due(SECOND * 10), []);
        assert_eq!(throttle.next_due(), Some(SECOND * 11));
        assert_eq!(throttle.due(SECOND * 11), [RepeatCount { kind: Some("a"), count: 15 }]);
        assert_eq!(throttle.next_due(), None);
    }

    #[test]
    fn intervals_grow_up_to_the_longest() {
        let mut throttle = LogThrottle::default();
        let mut now = Duration::ZERO;
        assert!(throttle.record(&"a", 1, now));
        let mut lines = 0;
        for _ in 0..86_400 {
            now += SECOND;
            assert!(!throttle.record(&"a", 1, now));
            lines += throttle.due(now).len();
        }
        assert!((140..200).contains(&lines), "{lines} lines a day");
    }

    #[test]
    fn a_kind_that_has_stopped_is_new_again() {
        let mut throttle = LogThrottle::default();
        assert!(throttle.record(&"a", 1, Duration::ZERO));
        assert!(!throttle.record(&"a", 1, SECOND));
        assert_eq!(throttle.due(SECOND * 10).len(), 1);
        assert!(!throttle.record(&"a", 1, SECOND * 29));
        assert_eq!(throttle.due(SECOND * 30), [RepeatCount { kind: Some("a"), count: 1 }]);
        assert!(throttle.record(&"a", 1, SECOND * 71));
    }

    #[test]
    fn kinds_are_bounded_and_no_event_goes_uncounted() {
        let mut throttle = LogThrottle::default();
        let logged = (0..10_000).filter(|kind| throttle.record(kind, 1, SECOND)).count();
        assert_eq!(logged, MAX_KINDS + 1);
        let uncounted: u64 = throttle.due(SECOND * 11).iter().map(|repeat| repeat.count).sum();
        assert_eq!(uncounted, 10_000 - (MAX_KINDS as u64 + 1));
        // Kinds that have stopped make room.
        assert!(throttle.record(&10_001, 1, SECOND * 700));
        assert_eq!(throttle.kinds.len(), 1);
    }
}
