//! Owns the detection of stalled topics: a topic without a leader, or short of replicas, must not block the
//! others.
//!
//! Runs in: a relay's background worker, main thread.
//!
//! The events of a stalled topic fill the window, because no reports arrive for them, and reading pauses. If
//! that lasts, the topics without reports are quarantined: no more of their events are taken until all of
//! those in flight have come back, and reading continues in the remaining quarter of the window.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Relay;

/// How long reading may pause for lack of room before the topics that take it up are quarantined.
const PATIENCE: Duration = Duration::from_secs(5);

/// For how many topics the time of the last report is stored.
const MAX_TOPICS: usize = 10_000;

/// Since when there has been no room, and when the last report of each topic arrived.
#[derive(Debug, Default)]
pub struct StalledTopics {
    since: Option<Instant>,
    heard: HashMap<Arc<str>, Instant>,
}

impl StalledTopics {
    /// Records that events of these topics have come back.
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

    /// When to check for stalled topics, if there is no room.
    #[must_use]
    pub fn until(&self) -> Option<Instant> {
        self.since.map(|since| since + PATIENCE)
    }
}

impl Relay {
    /// Quarantines the topics that block the others.
    pub(super) fn quarantine_stalled_topics(&mut self) {
        // A transaction comes back as a whole.
        let waits = self.has_reason_to_sweep()
            && self.producer.is_there()
            && !self.is_disconnected()
            && !self.exactly.is_on();
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
            // Otherwise the events of these topics in that batch would still take the gapless route.
            self.give_up_unreplicated();
        }
        for topic in silent {
            let text = format!("no delivery report for topic \"{topic}\" in {} s", PATIENCE.as_secs());
            tracing::warn!("{text}; holding back its events");
            self.slot.show_error(&text);
            self.in_flight.quarantine(&topic);
        }
    }
}
