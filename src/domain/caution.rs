//! Finding the one event for which a broker refused a whole batch.
//!
//! A broker's verdict on size or validity is one on the batch: all its events come back with the same
//! error, and only one may be to blame. So the topic goes on in small groups, each sent when the one
//! before is settled: one event at first, twice as many after each group that went well, half as many
//! after one that did not. Only an event that was refused in a group of its own is charged with it. What the
//! broker takes in smaller batches only, since its limit is one of batches, gets through in the same way.
//!
//! A topic of which nothing comes back can be handled with caution too: then no more of it is sent until
//! what is in flight has come back.

use std::collections::HashMap;
use std::sync::Arc;

/// A group so large is no caution any more.
const FREE: usize = 16_384;

/// The topics that are handled with caution.
#[derive(Debug, Default)]
pub struct Caution {
    topics: HashMap<Arc<str>, Group>,
}

#[derive(Debug)]
struct Group {
    /// The most events sent together.
    most: usize,
    /// Events sent in this group.
    sent: usize,
    /// Events of the topic in flight, of this group or from before it.
    in_flight: usize,
    /// Whether one of the group was refused.
    failed: bool,
    /// The lowest id that was turned away meanwhile.
    turned_away: Option<i64>,
}

impl Caution {
    /// Whether no topic is handled with caution.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// Whether a topic is handled with caution.
    #[must_use]
    pub fn holds(&self, topic: &str) -> bool {
        self.topics.contains_key(topic)
    }

    /// A batch of this topic was refused, while so many others of its events are still in flight. Gives
    /// nothing new to a topic that is handled with caution already.
    pub fn begin(&mut self, topic: &Arc<str>, in_flight: usize) {
        self.topics.entry(topic.clone()).or_insert(Group {
            most: 1,
            sent: 0,
            in_flight,
            failed: false,
            turned_away: None,
        });
    }

    /// Whether an event may be sent now; then it counts as in flight. Asked in ascending ids.
    pub fn admits(&mut self, topic: &str, id: i64) -> bool {
        let Some(group) = self.topics.get_mut(topic) else { return true };
        // What was in flight from before the group must be settled first, or it might share its batch.
        if group.sent < group.most && group.in_flight == group.sent {
            group.sent += 1;
            group.in_flight += 1;
            return true;
        }
        group.turned_away = Some(group.turned_away.map_or(id, |lowest| lowest.min(id)));
        false
    }

    /// Whether an event that is admitted now is the only one of its topic in flight.
    #[must_use]
    pub fn is_alone(&self, topic: &str) -> bool {
        self.topics.get(topic).is_some_and(|group| group.most == 1)
    }

    /// An event of this topic is no longer in flight; `failed` if a batch was refused for it. Gives the
    /// lowest id that was turned away, if it is time to read it again.
    pub fn settled(&mut self, topic: &str, failed: bool) -> Option<i64> {
        let group = self.topics.get_mut(topic)?;
        group.in_flight = group.in_flight.saturating_sub(1);
        group.failed |= failed && group.sent > 0;
        if group.in_flight > 0 {
            return None;
        }
        if group.sent > 0 {
            group.most = if group.failed { (group.sent / 2).max(1) } else { group.most * 2 };
        }
        (group.sent, group.failed) = (0, false);
        let turned_away = group.turned_away.take();
        if group.most >= FREE {
            self.topics.remove(topic);
        }
        turned_away
    }

    /// The fate of all that is in flight became unknown: begins anew, without caution. Gives the lowest id
    /// that was turned away.
    pub fn abandon(&mut self) -> Option<i64> {
        std::mem::take(&mut self.topics).into_values().filter_map(|group| group.turned_away).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn other_topics_and_the_time_before_are_free() {
        let mut caution = Caution::default();
        assert!(caution.admits("a", 1) && caution.is_empty());
        caution.begin(&"a".into(), 0);
        assert!(caution.admits("b", 1) && !caution.is_alone("b"));
    }

    #[test]
    fn what_was_in_flight_is_waited_for() {
        let mut caution = Caution::default();
        caution.begin(&"a".into(), 2);
        assert!(!caution.admits("a", 7));
        assert!(!caution.admits("a", 5));
        assert_eq!(caution.settled("a", true), None);
        assert_eq!(caution.settled("a", true), Some(5));
        assert!(caution.admits("a", 5) && caution.is_alone("a"));
        assert!(!caution.admits("a", 7));
        assert_eq!(caution.settled("a", false), Some(7));
        assert!(caution.admits("a", 7) && !caution.is_alone("a"));
    }

    #[test]
    fn to_abandon_tells_what_waits() {
        let mut caution = Caution::default();
        caution.begin(&"a".into(), 1);
        caution.begin(&"b".into(), 1);
        assert!(!caution.admits("a", 9) && !caution.admits("b", 4));
        assert_eq!(caution.abandon(), Some(4));
        assert!(caution.is_empty());
    }

    proptest! {
        /// A broker that refuses each batch with a bad event in it, or with more than `limit` events: all
        /// good ones get through uncharged, all bad ones are charged, in few groups.
        #[test]
        fn the_guilty_are_found_and_nobody_else(
            bad in prop::collection::btree_set(0_i64..500, 0..6),
            limit in 1_usize..600,
        ) {
            let mut caution = Caution::default();
            caution.begin(&"t".into(), 0);
            let mut waiting: BTreeSet<i64> = (0..500).collect();
            let mut charged = BTreeSet::new();
            let mut groups = 0;
            while !waiting.is_empty() {
                groups += 1;
                prop_assert!(groups < 2_000);
                let alone = caution.is_alone("t");
                let group: Vec<i64> = waiting.iter().copied().filter(|id| caution.admits("t", *id)).collect();
                prop_assert!(!group.is_empty());
                let refused = group.len() > limit || group.iter().any(|id| bad.contains(id));
                for id in &group {
                    if !refused {
                        waiting.remove(id);
                    } else if alone {
                        waiting.remove(id);
                        charged.insert(*id);
                    }
                    caution.settled("t", refused);
                }
            }
            prop_assert_eq!(charged, bad);
        }
    }
}
