//! Which topics exist, asked before a producer is given events for them.
//!
//! librdkafka never forgets a topic that it was given an event for, and asks for one that is not there again and again. So
//! a producer is not given any: Kafka is asked first, about all new names of a batch at once, by a request that creates
//! nothing. Where there is no answer, the producer is given them after all, and finds out.

use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString};
use std::ptr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::bindings as rdsys;
use rdkafka::error::RDKafkaErrorCode as Code;

/// How long it is remembered that a topic does not exist.
const MISSING_FOR: Duration = Duration::from_secs(1);

/// Missing topics that are remembered.
const MAX_MISSING: usize = 10_000;

/// Names in a request.
const NAMES_PER_REQUEST: usize = 1_000;

/// What a producer knows of topics.
#[derive(Debug, Default)]
pub struct KnownTopics {
    /// Those that it was given events for.
    opened: HashSet<Arc<str>>,
    /// Of those, how often one turned out not to exist.
    vanished: usize,
    missing: HashMap<Arc<str>, Instant>,
}

impl KnownTopics {
    /// One of the topics that the producer knows, if it knows any.
    #[must_use]
    pub fn any_opened(&self) -> Option<&Arc<str>> {
        self.opened.iter().next()
    }

    /// How many topics the producer knows.
    #[must_use]
    pub fn opened(&self) -> usize {
        self.opened.len()
    }

    /// How often one of them turned out not to exist.
    #[must_use]
    pub fn vanished(&self) -> usize {
        self.vanished
    }

    /// The producer has found that a topic does not exist, or no longer.
    pub fn record_vanished(&mut self, topic: &str) {
        self.vanished += 1;
        // The next event for it is asked about.
        self.opened.remove(topic);
    }

    /// Which of these topics do not exist, as far as Kafka says so. `None` if it does not answer.
    ///
    /// # Safety
    /// The client is alive.
    #[must_use]
    pub unsafe fn find_missing(
        &mut self,
        client: *mut rdsys::rd_kafka_t,
        topics: &[Arc<str>],
        timeout: Duration,
    ) -> Option<HashSet<Arc<str>>> {
        let now = Instant::now();
        self.missing.retain(|_, until| *until > now);
        let unknown: Vec<_> = topics
            .iter()
            .filter(|topic| !self.opened.contains(*topic) && !self.missing.contains_key(*topic))
            .collect();
        let mut missing: HashSet<_> =
            topics.iter().filter(|topic| self.missing.contains_key(*topic)).cloned().collect();
        for names in unknown.chunks(NAMES_PER_REQUEST) {
            // SAFETY: the client is alive.
            let found = unsafe { missing_of(client, names, timeout) }?;
            if self.missing.len() < MAX_MISSING {
                self.missing.extend(found.iter().map(|topic| (topic.clone(), now + MISSING_FOR)));
            }
            missing.extend(found);
        }
        Some(missing)
    }

    /// The producer is given events for these topics.
    pub fn mark_opened<'t>(&mut self, topics: impl Iterator<Item = &'t Arc<str>>) {
        for topic in topics {
            if !self.opened.contains(topic) {
                self.opened.insert(topic.clone());
            }
        }
    }
}

/// Those of the topics that Kafka says do not exist; `None` if it does not answer.
///
/// # Safety
/// The client is alive.
unsafe fn missing_of(
    client: *mut rdsys::rd_kafka_t,
    topics: &[&Arc<str>],
    timeout: Duration,
) -> Option<Vec<Arc<str>>> {
    let names: Vec<CString> = topics.iter().filter_map(|topic| CString::new(&***topic).ok()).collect();
    let mut pointers: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
    let millis = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the client is alive. The names live through the call, which copies them. What was made here is destroyed
    // here; an event that comes after the queue is gone is destroyed by librdkafka.
    unsafe {
        let queue = rdsys::rd_kafka_queue_new(client);
        let options = rdsys::rd_kafka_AdminOptions_new(
            client,
            rdsys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS,
        );
        rdsys::rd_kafka_AdminOptions_set_request_timeout(options, millis, ptr::null_mut(), 0);
        let asked = rdsys::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
        rdsys::rd_kafka_DescribeTopics(client, asked, options, queue);
        let event = rdsys::rd_kafka_queue_poll(queue, millis);
        let missing = if event.is_null() { None } else { missing_in(event, topics) };
        if !event.is_null() {
            rdsys::rd_kafka_event_destroy(event);
        }
        rdsys::rd_kafka_TopicCollection_destroy(asked);
        rdsys::rd_kafka_AdminOptions_destroy(options);
        rdsys::rd_kafka_queue_destroy(queue);
        missing
    }
}

/// Reads Kafka's answer.
///
/// # Safety
/// The event is alive.
unsafe fn missing_in(event: *mut rdsys::rd_kafka_event_t, topics: &[&Arc<str>]) -> Option<Vec<Arc<str>>> {
    let mut missing = HashSet::new();
    // SAFETY: what the event points to lives as long as it does, and is read here only.
    unsafe {
        let result = rdsys::rd_kafka_event_DescribeTopics_result(event);
        if result.is_null() || Code::from(rdsys::rd_kafka_event_error(event)) != Code::NoError {
            return None;
        }
        let mut count = 0;
        let described = rdsys::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        for place in 0..count {
            let topic = *described.add(place);
            let error = rdsys::rd_kafka_TopicDescription_error(topic);
            if Code::from(rdsys::rd_kafka_error_code(error)) == Code::UnknownTopicOrPartition {
                missing.insert(CStr::from_ptr(rdsys::rd_kafka_TopicDescription_name(topic)).to_bytes());
            }
        }
        Some(
            topics
                .iter()
                .filter(|topic| missing.contains(topic.as_bytes()))
                .map(|topic| (*topic).clone())
                .collect(),
        )
    }
}
