//! Owns the notifications about published events that consumers inside the database receive.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use uuid::Uuid;

use crate::event::topic;

/// How consumers are notified: `event_outbox.notify`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One notification per topic, partition and settled batch.
    Batch,
    /// One notification per event.
    Event,
    /// No notifications.
    Off,
}

/// A published event and its position in Kafka.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The event's identity.
    pub event_id: [u8; 16],
    /// Its topic.
    pub topic: Arc<str>,
    /// The partition in Kafka's acknowledgement.
    pub partition: i32,
    /// The offset in Kafka's acknowledgement.
    pub offset: i64,
}

/// A notification: the channel and its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// NOTIFY channel.
    pub channel: String,
    /// JSON, below Postgres' limit of 8000 bytes for every topic name.
    pub payload: String,
}

#[derive(Serialize)]
struct Batch<'a> {
    topic: &'a str,
    partition: i32,
    first_offset: i64,
    last_offset: i64,
    count: usize,
}

#[derive(Serialize)]
struct Single<'a> {
    topic: &'a str,
    partition: i32,
    offset: i64,
    event_id: String,
}

/// The notifications for one settled batch.
#[must_use]
pub fn notifications(mode: Mode, published: &[Published]) -> Vec<Notification> {
    match mode {
        Mode::Off => Vec::new(),
        Mode::Batch => batches(published),
        Mode::Event => published
            .iter()
            .map(|event| {
                notification(
                    &event.topic,
                    &Single {
                        topic: &event.topic,
                        partition: event.partition,
                        offset: event.offset,
                        event_id: Uuid::from_bytes(event.event_id).to_string(),
                    },
                )
            })
            .collect(),
    }
}

fn batches(published: &[Published]) -> Vec<Notification> {
    let mut ranges = BTreeMap::new();
    // Acknowledgements come in runs of one partition.
    for run in runs(published) {
        let Some(Published { topic, partition, .. }) = run.first() else { continue };
        ranges.entry((&**topic, *partition)).or_insert(Range::EMPTY).add(run);
    }
    ranges.into_iter().map(|((topic, partition), range)| range.notification(topic, partition)).collect()
}

fn runs(published: &[Published]) -> impl Iterator<Item = &[Published]> {
    published.chunk_by(|a, b| a.partition == b.partition && Arc::ptr_eq(&a.topic, &b.topic))
}

/// Events of one partition.
#[derive(Debug)]
struct Range {
    first: i64,
    last: i64,
    count: usize,
}

impl Range {
    const EMPTY: Self = Self { first: i64::MAX, last: i64::MIN, count: 0 };

    fn add(&mut self, run: &[Published]) {
        for event in run {
            self.first = self.first.min(event.offset);
            self.last = self.last.max(event.offset);
        }
        self.count += run.len();
    }

    fn notification(&self, topic: &str, partition: i32) -> Notification {
        let Self { first, last, count } = *self;
        notification(topic, &Batch { topic, partition, first_offset: first, last_offset: last, count })
    }
}

/// The number of partitions whose missed notifications are remembered.
const MAX_MISSED: usize = 10_000;

/// The notifications that could not be sent, as one range of offsets for each partition. Its size is bounded.
#[derive(Debug, Default)]
pub struct Missed {
    ranges: BTreeMap<(Arc<str>, i32), Range>,
}

impl Missed {
    /// Remembers events whose notifications could not be sent.
    pub fn add(&mut self, published: &[Published]) {
        for run in runs(published) {
            let Some(Published { topic, partition, .. }) = run.first() else { continue };
            let key = (topic.clone(), *partition);
            if self.ranges.len() < MAX_MISSED || self.ranges.contains_key(&key) {
                self.ranges.entry(key).or_insert(Range::EMPTY).add(run);
            }
        }
    }

    /// The notifications to send, as with [`Mode::Batch`].
    #[must_use]
    pub fn notifications(&self) -> Vec<Notification> {
        let ranges = self.ranges.iter();
        ranges.map(|((topic, partition), range)| range.notification(topic, *partition)).collect()
    }
}

fn notification(topic: &str, body: &impl Serialize) -> Notification {
    // Plain structs of strings and numbers always serialise.
    let payload = serde_json::to_string(body).unwrap_or_default();
    Notification { channel: topic::channel(topic), payload }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(topic: &str, partition: i32, offset: i64) -> Published {
        Published { event_id: [7; 16], topic: topic.into(), partition, offset }
    }

    #[test]
    fn a_batch_is_one_range_per_partition() {
        let sent = notifications(
            Mode::Batch,
            &[at("a", 0, 5), at("b", 0, 1), at("a", 0, 4), at("a", 1, 9), at("a", 0, 6)],
        );
        let payloads: Vec<_> = sent.iter().map(|n| (n.channel.as_str(), n.payload.as_str())).collect();
        assert_eq!(
            payloads,
            vec![
                ("outbox:a", r#"{"topic":"a","partition":0,"first_offset":4,"last_offset":6,"count":3}"#),
                ("outbox:a", r#"{"topic":"a","partition":1,"first_offset":9,"last_offset":9,"count":1}"#),
                ("outbox:b", r#"{"topic":"b","partition":0,"first_offset":1,"last_offset":1,"count":1}"#),
            ]
        );
    }

    #[test]
    fn missed_events_are_sent_as_one_range_and_bounded() {
        let mut missed = Missed::default();
        assert!(missed.notifications().is_empty());
        missed.add(&[at("a", 0, 5), at("b", 0, 1)]);
        missed.add(&[at("a", 0, 9)]);
        let sent = missed.notifications();
        assert_eq!(
            sent[0].payload,
            r#"{"topic":"a","partition":0,"first_offset":5,"last_offset":9,"count":2}"#
        );
        for partition in 0..2 * MAX_MISSED as i32 {
            missed.add(&[at("c", partition, 1)]);
        }
        assert_eq!(missed.notifications().len(), MAX_MISSED);
        missed.add(&[at("a", 0, 10)]);
        assert!(missed.notifications()[0].payload.contains(r#""last_offset":10,"count":3"#));
    }

    #[test]
    fn each_event_has_its_own_notification() {
        let sent = notifications(Mode::Event, &[at("a", 0, 5)]);
        assert_eq!(
            sent[0].payload,
            r#"{"topic":"a","partition":0,"offset":5,"event_id":"07070707-0707-0707-0707-070707070707"}"#
        );
        assert_eq!(notifications(Mode::Off, &[at("a", 0, 5)]), vec![]);
    }
}
