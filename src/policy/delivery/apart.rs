//! Which quarantined topics have transactions of their own.
//!
//! An event that Kafka refuses, or does not take, takes the whole transaction back. Quarantined topics share one, since it
//! costs the same for a thousand of them as for one. But a topic whose events fail again and again would take all others back
//! each time. So it goes alone until a transaction of its own has gone well, after all others, and the one that has failed
//! last comes last: of several, each has its turn though the first failure ends the round.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

/// How many topics are remembered. More of them fail together.
const MOST: usize = 1_000;

/// The topics whose last transaction failed because of them.
#[derive(Debug, Default)]
pub struct Apart(VecDeque<Arc<str>>);

impl Apart {
    /// A transaction has failed because of events of this topic.
    pub fn failed(&mut self, topic: &Arc<str>) {
        self.went_well(topic);
        self.0.push_back(Arc::clone(topic));
        if self.0.len() > MOST {
            self.0.pop_front();
        }
    }

    /// A transaction with events of this topic has gone well.
    pub fn went_well(&mut self, topic: &str) {
        self.0.retain(|other| **other != *topic);
    }

    /// Divides topics among transactions, in their order: those that share one, and then each that goes alone.
    #[must_use]
    pub fn divide(&self, topics: HashSet<Arc<str>>) -> Vec<HashSet<Arc<str>>> {
        let alone: Vec<Arc<str>> = self.0.iter().filter(|topic| topics.contains(*topic)).cloned().collect();
        let mut together = topics;
        alone.iter().for_each(|topic| {
            together.remove(topic);
        });
        let alone = alone.into_iter().map(|topic| HashSet::from([topic]));
        std::iter::once(together).filter(|topics| !topics.is_empty()).chain(alone).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(name: &str) -> Arc<str> {
        name.into()
    }

    fn divided(apart: &Apart, names: &str) -> Vec<String> {
        let topics = apart.divide(names.split(' ').map(topic).collect());
        topics
            .into_iter()
            .map(|topics| {
                let mut names: Vec<&str> = topics.iter().map(|topic| &**topic).collect();
                names.sort_unstable();
                names.join(" ")
            })
            .collect()
    }

    #[test]
    fn topics_share_a_transaction_until_one_fails() {
        let mut apart = Apart::default();
        assert_eq!(divided(&apart, "a b c"), ["a b c"]);
        apart.failed(&topic("b"));
        assert_eq!(divided(&apart, "a b c"), ["a c", "b"]);
        assert_eq!(divided(&apart, "b"), ["b"]);
        assert_eq!(divided(&apart, "a c"), ["a c"]);
        apart.went_well("b");
        assert_eq!(divided(&apart, "a b c"), ["a b c"]);
    }

    /// Each round ends with the first failure.
    #[test]
    fn each_topic_that_fails_has_its_turn() {
        let mut apart = Apart::default();
        ["a", "b", "c"].iter().for_each(|name| apart.failed(&topic(name)));
        let mut first = Vec::new();
        for _ in 0..6 {
            let name = divided(&apart, "a b c d").swap_remove(1);
            apart.failed(&topic(&name));
            first.push(name);
        }
        assert_eq!(first, ["a", "b", "c", "a", "b", "c"]);
    }

    #[test]
    fn not_more_topics_are_remembered_than_a_bound() {
        let mut apart = Apart::default();
        (0..3 * MOST).for_each(|number| apart.failed(&topic(&number.to_string())));
        assert_eq!(apart.0.len(), MOST);
        assert_eq!(divided(&apart, "0 1 2999"), ["0 1", "2999"]);
    }
}
