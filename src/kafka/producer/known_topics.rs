//! Finds out which topics exist before a producer is given events for them.
//!
//! librdkafka never forgets a topic that it was given an event for, and keeps requesting the metadata of a missing one. So a
//! producer gets no events for missing topics: Kafka is asked first, about all new topics of a batch at once, with a request
//! that creates nothing. If there is no answer, the producer gets the events after all, and finds out itself.
//!
//! Runs in: the Kafka thread.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::bindings as rdsys;
use rdkafka::error::RDKafkaErrorCode as Code;

use crate::kafka::topics;

/// How long a topic is remembered as missing.
const MISSING_FOR: Duration = Duration::from_secs(1);

/// How many missing topics are remembered.
const MAX_MISSING: usize = 10_000;

/// How many topics the producers may keep, and how many of these may be missing ones.
const MAX_OPENED: usize = 2_000;
const MAX_VANISHED: usize = 100;

/// How many topics the first request names: a broker that is there answers such a request soon, even under load.
const FIRST_NAMES: usize = 50;

/// How many topics each further request may name.
const NAMES_PER_REQUEST: usize = 500;

/// How much longer such a request may take.
const PATIENCE: u32 = 10;

/// The topics that the producers know, and the missing ones.
#[derive(Debug, Default)]
pub struct KnownTopics {
    /// Topics that the producers were given events for.
    opened: HashSet<Arc<str>>,
    /// How often an opened topic turned out not to exist.
    vanished: usize,
    /// Missing topics, each with the time until which it is remembered.
    missing: HashMap<Arc<str>, Instant>,
}

impl KnownTopics {
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

    /// Returns those of the topics that do not exist according to Kafka, and whether it has answered all requests. The first
    /// one may take `timeout`. What is not answered does not take back what was found before.
    ///
    /// # Safety
    /// The client must be alive.
    #[must_use]
    pub unsafe fn find_missing(
        &mut self,
        client: *mut rdsys::rd_kafka_t,
        topics: &[Arc<str>],
        timeout: Duration,
    ) -> (HashSet<Arc<str>>, bool) {
        let now = Instant::now();
        self.missing.retain(|_, until| *until > now);
        let unknown: Vec<_> = topics
            .iter()
            .filter(|topic| !self.opened.contains(*topic) && !self.missing.contains_key(*topic))
            .collect();
        let mut missing: HashSet<_> =
            topics.iter().filter(|topic| self.missing.contains_key(*topic)).cloned().collect();
        let (first, rest) = unknown.split_at(unknown.len().min(FIRST_NAMES));
        let further = rest.chunks(NAMES_PER_REQUEST).map(|names| (names, timeout * PATIENCE));
        for (names, timeout) in [(first, timeout)].into_iter().chain(further) {
            if names.is_empty() {
                break;
            }
            // SAFETY: the client is alive.
            let Some(found) = (unsafe { missing_of(client, names, timeout) }) else {
                return (missing, false);
            };
            if self.missing.len() < MAX_MISSING {
                let until = Instant::now() + MISSING_FOR;
                self.missing.extend(found.iter().map(|topic| (topic.clone(), until)));
            }
            missing.extend(found);
        }
        (missing, true)
    }

    /// Notes that a producer is given events for these topics.
    pub fn mark_opened<'t>(&mut self, topics: impl Iterator<Item = &'t Arc<str>>) {
        for topic in topics {
            if !self.opened.contains(topic) {
                self.opened.insert(topic.clone());
            }
        }
    }
}

/// Asks Kafka which of the topics do not exist. `None` if it does not answer.
///
/// # Safety
/// The client must be alive.
unsafe fn missing_of(
    client: *mut rdsys::rd_kafka_t,
    topics: &[&Arc<str>],
    timeout: Duration,
) -> Option<Vec<Arc<str>>> {
    let names: Vec<String> = topics.iter().map(ToString::to_string).collect();
    // SAFETY: as promised by the caller.
    let (_, missing) = unsafe { topics::describe_by(client, &names, timeout) }?;
    let is_missing = |(_, code): &&(String, Code)| *code == Code::UnknownTopicOrPartition;
    let missing: HashSet<&str> = missing.iter().filter(is_missing).map(|(name, _)| &**name).collect();
    Some(topics.iter().copied().filter(|topic| missing.contains(&***topic)).cloned().collect())
}
