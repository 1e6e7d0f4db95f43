//! Owns what is known of topics before a producer is given events for them, and which ones Kafka is to be asked about.
//!
//! librdkafka never forgets a topic that it was given an event for, and keeps requesting the metadata of a missing one; with
//! thousands of these it holds up all others. So a producer gets no events for missing topics: Kafka is asked first, about
//! many new topics at once, with a question that creates nothing. Until it answers, the events of these topics wait, and
//! those of known topics go on.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Add;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a topic is remembered as missing.
const MISSING_FOR: Duration = Duration::from_secs(1);

/// How many missing topics are remembered.
const MAX_MISSING: usize = 10_000;

/// How many topics the producers may keep, and how many of these may be missing ones.
const MAX_OPENED: usize = 2_000;
const MAX_VANISHED: usize = 100;

/// How many topics the first question names, and one after a silence: a broker that is there answers it soon, even under
/// load.
const FIRST_NAMES: usize = 50;

/// How many topics each further question names.
const MORE_NAMES: usize = 1_000;

/// After how many unanswered questions in a row the producer gets the events after all, and finds out itself: Kafka answers
/// others, so it is this question that it does not answer.
const MAX_UNANSWERED: u32 = 3;

/// What is to be done with the events of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Knowledge {
    /// The producer gets them.
    Exists,
    /// They are refused.
    Missing,
    /// They wait until Kafka has answered.
    Unknown,
}

/// What is known of topics. `T` is a time of a monotonic clock.
#[derive(Debug)]
pub struct KnownTopics<T = Instant> {
    /// Topics that the producers were given events for.
    opened: HashSet<Arc<str>>,
    /// How often an opened topic turned out not to exist.
    vanished: usize,
    /// Missing topics, each with the time until which it is remembered.
    missing: HashMap<Arc<str>, T>,
    /// Topics that Kafka is to be asked about, in the order in which they came up. Those of the open question come first.
    unknown: VecDeque<Arc<str>>,
    is_unknown: HashSet<Arc<str>>,
    /// How many of them the open question names; 0 if none is open.
    asked: usize,
    /// How many topics the next question may name.
    room: usize,
    unanswered: u32,
}

impl<T> Default for KnownTopics<T> {
    fn default() -> Self {
        Self {
            opened: HashSet::new(),
            vanished: 0,
            missing: HashMap::new(),
            unknown: VecDeque::new(),
            is_unknown: HashSet::new(),
            asked: 0,
            room: FIRST_NAMES,
            unanswered: 0,
        }
    }
}

impl<T: Copy + Ord + Add<Duration, Output = T>> KnownTopics<T> {
    /// What to do with events that have just come. A topic of which nothing is known will be asked about.
    pub fn look_up(&mut self, topic: &Arc<str>, now: T) -> Knowledge {
        if self.opened.contains(topic) {
            Knowledge::Exists
        } else if self.is_unknown.contains(topic) {
            Knowledge::Unknown
        } else if self.missing.get(topic).is_some_and(|until| *until > now) {
            Knowledge::Missing
        } else {
            self.unknown.push_back(topic.clone());
            self.is_unknown.insert(topic.clone());
            Knowledge::Unknown
        }
    }

    /// The topics that the next question names. Empty if there is nothing to ask, or a question is open.
    pub fn ask(&mut self) -> Vec<Arc<str>> {
        if self.asked > 0 {
            return Vec::new();
        }
        self.asked = self.unknown.len().min(self.room);
        self.unknown.iter().take(self.asked).cloned().collect()
    }

    /// Takes the answer to the open question. Returns what is known now of each topic that it named.
    pub fn answered(&mut self, missing: &HashSet<&str>, now: T) -> HashMap<Arc<str>, Knowledge> {
        self.unanswered = 0;
        self.room = MORE_NAMES;
        self.missing.retain(|_, until| *until > now);
        self.decide(|topics, topic| {
            if !missing.contains(&**topic) {
                return Knowledge::Exists;
            }
            if topics.missing.len() < MAX_MISSING {
                topics.missing.insert(topic.clone(), now + MISSING_FOR);
            }
            Knowledge::Missing
        })
    }

    /// Records that the open question was not answered: it will be asked again. After several in a row the topics count as
    /// existing; these are returned then.
    pub fn not_answered(&mut self) -> HashMap<Arc<str>, Knowledge> {
        self.room = FIRST_NAMES;
        self.unanswered += 1;
        if self.unanswered < MAX_UNANSWERED {
            self.asked = 0;
            return HashMap::new();
        }
        self.unanswered = 0;
        self.decide(|_, _| Knowledge::Exists)
    }

    /// Notes that the producers are given events for this topic.
    pub fn mark_opened(&mut self, topic: &Arc<str>) {
        if !self.opened.contains(topic) {
            self.opened.insert(topic.clone());
        }
    }

    /// An opened topic, if there is any.
    #[must_use]
    pub fn any_opened(&self) -> Option<&Arc<str>> {
        self.opened.iter().next()
    }

    /// Whether the producers should be replaced to forget topics: if they keep too many, or too many missing ones, or if they
    /// would create them again. `creates` tells whether Kafka creates topics that a producer asks for.
    #[must_use]
    pub fn are_stale(&self, creates: bool) -> bool {
        let opened = self.opened.len();
        creates && opened > 0 || opened > MAX_OPENED || self.vanished > MAX_VANISHED
    }

    /// Records that the producer found an opened topic missing.
    pub fn record_vanished(&mut self, topic: &str) {
        // Kafka is asked about the topic again before its next event. A topic that it called missing was never opened.
        self.vanished += usize::from(self.opened.remove(topic));
    }

    /// Closes the open question.
    fn decide(
        &mut self,
        mut what: impl FnMut(&mut Self, &Arc<str>) -> Knowledge,
    ) -> HashMap<Arc<str>, Knowledge> {
        let asked = std::mem::take(&mut self.asked);
        let named: Vec<_> = self.unknown.drain(..asked).collect();
        let mut decided = HashMap::with_capacity(named.len());
        for topic in named {
            self.is_unknown.remove(&topic);
            let knowledge = what(self, &topic);
            if knowledge == Knowledge::Exists {
                self.mark_opened(&topic);
            }
            decided.insert(topic, knowledge);
        }
        decided
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn names(range: std::ops::Range<usize>) -> Vec<Arc<str>> {
        range.map(|n| Arc::from(format!("topic{n}"))).collect()
    }

    #[test]
    fn each_topic_is_asked_about_once_and_decided_once() {
        let mut known = KnownTopics::<Duration>::default();
        let topics = names(0..2500);
        for topic in topics.iter().chain(&topics) {
            assert_eq!(known.look_up(topic, Duration::ZERO), Knowledge::Unknown);
        }
        let mut decided = Vec::new();
        let mut sizes = Vec::new();
        loop {
            let asked = known.ask();
            if asked.is_empty() {
                break;
            }
            assert!(known.ask().is_empty(), "one question at a time");
            sizes.push(asked.len());
            let missing = asked.iter().map(|topic| &**topic).filter(|topic| topic.ends_with('7')).collect();
            let answer = known.answered(&missing, Duration::ZERO);
            assert_eq!(answer.len(), asked.len());
            for topic in asked {
                let is_missing = topic.ends_with('7');
                let expected = if is_missing { Knowledge::Missing } else { Knowledge::Exists };
                assert_eq!(answer[&topic], expected);
                assert_eq!(known.look_up(&topic, Duration::ZERO), expected);
                decided.push(topic);
            }
        }
        assert_eq!(sizes, [50, 1000, 1000, 450]);
        assert_eq!(decided, topics);
    }

    #[test]
    fn a_missing_topic_is_asked_about_again_after_a_second() {
        let mut known = KnownTopics::<Duration>::default();
        let topic = Arc::from("topic");
        known.look_up(&topic, Duration::ZERO);
        known.ask();
        known.answered(&HashSet::from(["topic"]), Duration::ZERO);
        assert_eq!(known.look_up(&topic, SECOND - Duration::from_nanos(1)), Knowledge::Missing);
        assert_eq!(known.look_up(&topic, SECOND), Knowledge::Unknown);
        assert_eq!(known.ask(), [topic]);
    }

    #[test]
    fn an_unanswered_question_is_asked_again_and_then_the_producer_finds_out() {
        let mut known = KnownTopics::<Duration>::default();
        let topics = names(0..60);
        for topic in &topics {
            known.look_up(topic, Duration::ZERO);
        }
        for _ in 1..MAX_UNANSWERED {
            assert_eq!(known.ask(), topics[..50]);
            assert!(known.not_answered().is_empty());
            assert_eq!(known.look_up(&topics[0], Duration::ZERO), Knowledge::Unknown);
        }
        assert_eq!(known.ask(), topics[..50]);
        let decided = known.not_answered();
        assert_eq!(decided.len(), 50);
        assert!(decided.values().all(|knowledge| *knowledge == Knowledge::Exists));
        assert_eq!(known.ask(), topics[50..]);
    }

    #[test]
    fn a_topic_that_vanished_is_asked_about_again() {
        let mut known = KnownTopics::<Duration>::default();
        let topic = Arc::from("topic");
        known.look_up(&topic, Duration::ZERO);
        known.ask();
        known.answered(&HashSet::new(), Duration::ZERO);
        assert_eq!(known.any_opened(), Some(&topic));
        known.record_vanished("topic");
        assert_eq!(known.look_up(&topic, Duration::ZERO), Knowledge::Unknown);
    }
}
