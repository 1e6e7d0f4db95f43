//! A topic that is stuck, without a leader or short of replicas, must not keep the others waiting.
//!
//! Its events fill the window, since nothing comes back for them, and reading pauses. When that lasts, the
//! topics that nothing was heard of are set aside: no more of theirs is taken until all of theirs in
//! flight has come back, and reading goes on in the quarter of the window that is left.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Relay;

/// How long reading may pause for want of room, before it is asked whose events take it up.
const PATIENCE: Duration = Duration::from_secs(5);

/// Topics of which it is remembered when something was heard.
const MAX_TOPICS: usize = 10_000;

/// Since when there has been no room, and what was heard of which topic.
#[derive(Debug, Default)]
pub struct StalledTopics {
    since: Option<Instant>,
    heard: HashMap<Arc<str>, Instant>,
}

impl StalledTopics {
    /// Events of these topics have come back.
    pub fn heard_of<'a>(&mut self, topics: impl Iterator<Item = &'a Arc<str>>) {
        if self.heard.len() >= MAX_TOPICS {
            self.heard.clear();
        }
        let now = Instant::now();
        let mut last: Option<&Arc<str>> = None;
        for topic in topics {
            // Reports come in runs of one topic.
            if last.is_none_or(|last| !Arc::ptr_eq(last, topic)) {
                self.heard.insert(topic.clone(), now);
                last = Some(topic);
            }
        }
    }

    /// Whether an event of this topic has come back.
    #[must_use]
    pub fn has_heard_of(&self, topic: &str) -> bool {
        self.heard.contains_key(topic)
    }

    /// When to look for stuck topics, if there is no room.
    #[must_use]
    pub fn until(&self) -> Option<Instant> {
        self.since.map(|since| since + PATIENCE)
    }
}

impl Relay {
    /// Sets topics aside that keep the others waiting.
    pub(super) fn set_stuck_topics_aside(&mut self) {
        let waits = self.has_reason_to_sweep() && self.producer.is_there() && !self.is_disconnected();
        if !waits || self.has_room() {
            self.stalled_topics.since = None;
            return;
        }
        let since = *self.stalled_topics.since.get_or_insert_with(Instant::now);
        if since.elapsed() < PATIENCE {
            return;
        }
        self.stalled_topics.since = None;
        let silent: HashSet<Arc<str>> = self
            .in_flight
            .window()
            .topics()
            .filter(|topic| !self.in_flight.ramp().is_quarantined(topic))
            .filter(|topic| self.stalled_topics.heard.get(*topic).is_none_or(|heard| *heard < since))
            .cloned()
            .collect();
        if !silent.is_empty() {
            // It would follow by the other way.
            self.give_up_unreplicated();
        }
        for topic in silent {
            tracing::warn!("nothing is heard of topic {topic} from Kafka: its events wait, others go on");
            self.slot.show_error(&format!("nothing is heard of topic {topic} from Kafka"));
            self.in_flight.quarantine(&topic);
        }
    }
}
