//! Owns what is known of topics' numbers of partitions, for events that name a partition.
//!
//! Without it a partition that does not exist would be found by the producer. In a transaction that is too late: it would take
//! all other events of the transaction with it.

use std::collections::HashMap;
use std::ops::Add;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::known_topics::Knowledge;

/// How long a partition counts as missing after Kafka was asked. Later the topic may have got more.
const MISSING_FOR: Duration = Duration::from_secs(1);

/// How many topics are remembered.
const MAX_TOPICS: usize = 2_000;

/// The numbers of partitions. `T` is a time of a monotonic clock.
#[derive(Debug)]
pub struct KnownPartitions<T = Instant>(HashMap<Arc<str>, (i32, T)>);

impl<T> Default for KnownPartitions<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Copy + Ord + Add<Duration, Output = T>> KnownPartitions<T> {
    /// What to do with an event for this partition. If it is unknown, Kafka is to be asked about the topic.
    #[must_use]
    pub fn look_up(&self, topic: &Arc<str>, partition: i32, now: T) -> Knowledge {
        match self.0.get(topic) {
            Some((count, _)) if partition < *count => Knowledge::Exists,
            Some((_, asked_at)) if *asked_at + MISSING_FOR > now => Knowledge::Missing,
            _ => Knowledge::Unknown,
        }
    }

    /// Takes what Kafka has answered: how many partitions the topic has.
    pub fn learn(&mut self, topic: Arc<str>, count: i32, now: T) {
        if self.0.len() >= MAX_TOPICS {
            self.0.clear();
        }
        self.0.insert(topic, (count, now));
    }

    /// The producer has found that it was wrong: a topic was created again with fewer.
    pub fn forget(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_that_is_missing_is_asked_about_again_after_a_second() {
        let mut known = KnownPartitions::<Duration>::default();
        let topic: Arc<str> = Arc::from("topic");
        let at = Duration::from_millis;
        assert_eq!(known.look_up(&topic, 0, at(0)), Knowledge::Unknown);
        known.learn(topic.clone(), 2, at(0));
        assert_eq!(known.look_up(&topic, 1, at(5000)), Knowledge::Exists);
        assert_eq!(known.look_up(&topic, 2, at(999)), Knowledge::Missing);
        assert_eq!(known.look_up(&topic, 2, at(1000)), Knowledge::Unknown);
        known.learn(topic.clone(), 3, at(1000));
        assert_eq!(known.look_up(&topic, 2, at(1000)), Knowledge::Exists);
        known.forget();
        assert_eq!(known.look_up(&topic, 0, at(1000)), Knowledge::Unknown);
    }
}
