//! What is said of things that happen again and again: the first of a kind at once, the others as a count.
//!
//! A topic that is misspelt can have hundreds of thousands of events refused; one line each would fill the disk that the
//! log is on, and hide everything else in it.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

/// Time from the first of a kind to the first count, and the longest time between two counts. What has not happened for
/// that long is news again.
const PAUSE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(600));

/// Kinds that are told apart; what is beyond is counted together.
const MOST_KINDS: usize = 100;

/// What has happened, and not been said yet. Times are since a beginning of the caller's.
#[derive(Debug)]
pub struct Repeats<K> {
    kinds: HashMap<K, Kind>,
    others: Option<Kind>,
}

/// One kind of thing.
#[derive(Debug)]
struct Kind {
    unsaid: u64,
    pause: Duration,
    /// When to say how many there were; or, if there were none, to forget the kind.
    at: Duration,
}

/// A line to be said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said<K> {
    /// What has happened; `None` for kinds beyond those told apart.
    pub kind: Option<K>,
    /// How often, since it was last said.
    pub count: u64,
}

impl<K> Default for Repeats<K> {
    fn default() -> Self {
        Self { kinds: HashMap::new(), others: None }
    }
}

impl<K: Hash + Eq + Clone> Repeats<K> {
    /// It happened so many times. Whether to say so now, since it is the first time.
    #[must_use]
    pub fn is_news(&mut self, kind: &K, count: u64, now: Duration) -> bool {
        if let Some(known) = self.kinds.get_mut(kind) {
            return known.add(count, now);
        }
        if self.kinds.len() >= MOST_KINDS {
            self.kinds.retain(|_, known| known.unsaid > 0 || known.at > now);
        }
        if self.kinds.len() < MOST_KINDS {
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

    /// The counts that it is time to say.
    pub fn due(&mut self, now: Duration) -> Vec<Said<K>> {
        let kinds = self.kinds.iter_mut().map(|(kind, known)| (Some(kind), known));
        kinds
            .chain(self.others.iter_mut().map(|others| (None, others)))
            .filter(|(_, known)| known.unsaid > 0 && known.at <= now)
            .map(|(kind, known)| Said { kind: kind.cloned(), count: known.say(now) })
            .collect()
    }

    /// When that will be for the first of them; `None` while there is nothing to say.
    #[must_use]
    pub fn next_due(&self) -> Option<Duration> {
        self.kinds.values().chain(&self.others).filter(|known| known.unsaid > 0).map(|known| known.at).min()
    }
}

impl Kind {
    fn first(now: Duration) -> Self {
        Self { unsaid: 0, pause: PAUSE.0, at: now + PAUSE.0 }
    }

    /// Whether that is news: there was none since the last count, nor for the time to the next.
    fn add(&mut self, count: u64, now: Duration) -> bool {
        if self.unsaid == 0 && self.at <= now {
            *self = Self::first(now);
            return true;
        }
        self.unsaid = self.unsaid.saturating_add(count);
        false
    }

    fn say(&mut self, now: Duration) -> u64 {
        self.pause = (self.pause * 2).min(PAUSE.1);
        self.at = now + self.pause;
        std::mem::take(&mut self.unsaid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_first_is_said_and_the_others_are_counted() {
        let mut repeats = Repeats::default();
        assert!(repeats.is_news(&"a", 5, SECOND));
        assert_eq!(repeats.next_due(), None);
        assert!(!repeats.is_news(&"a", 7, SECOND * 2));
        assert!(!repeats.is_news(&"a", 8, SECOND * 3));
        assert!(repeats.is_news(&"b", 1, SECOND * 3));
        assert_eq!(repeats.due(SECOND * 10), []);
        assert_eq!(repeats.next_due(), Some(SECOND * 11));
        assert_eq!(repeats.due(SECOND * 11), [Said { kind: Some("a"), count: 15 }]);
        assert_eq!(repeats.next_due(), None);
    }

    #[test]
    fn pauses_grow_up_to_the_longest() {
        let mut repeats = Repeats::default();
        let mut now = Duration::ZERO;
        assert!(repeats.is_news(&"a", 1, now));
        let mut lines = 0;
        for _ in 0..86_400 {
            now += SECOND;
            assert!(!repeats.is_news(&"a", 1, now));
            lines += repeats.due(now).len();
        }
        assert!((140..200).contains(&lines), "{lines} lines a day");
    }

    #[test]
    fn what_has_stopped_is_news_again() {
        let mut repeats = Repeats::default();
        assert!(repeats.is_news(&"a", 1, Duration::ZERO));
        assert!(!repeats.is_news(&"a", 1, SECOND));
        assert_eq!(repeats.due(SECOND * 10).len(), 1);
        assert!(!repeats.is_news(&"a", 1, SECOND * 29));
        assert_eq!(repeats.due(SECOND * 30), [Said { kind: Some("a"), count: 1 }]);
        assert!(repeats.is_news(&"a", 1, SECOND * 71));
    }

    #[test]
    fn kinds_are_bounded_and_no_event_goes_uncounted() {
        let mut repeats = Repeats::default();
        let news = (0..10_000).filter(|kind| repeats.is_news(kind, 1, SECOND)).count();
        assert_eq!(news, MOST_KINDS + 1);
        let uncounted: u64 = repeats.due(SECOND * 11).iter().map(|said| said.count).sum();
        assert_eq!(uncounted, 10_000 - (MOST_KINDS as u64 + 1));
        // Those that have stopped make room.
        assert!(repeats.is_news(&10_001, 1, SECOND * 700));
        assert_eq!(repeats.kinds.len(), 1);
    }
}
