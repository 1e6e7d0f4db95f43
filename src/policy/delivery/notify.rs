//! What consumers inside the database are told about published events.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use uuid::Uuid;

use crate::event::topic;

/// How consumers are told: `event_outbox.notify`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One notification per topic, partition and settled batch.
    Batch,
    /// One notification per event.
    Event,
    /// None.
    Off,
}

/// A published event and where Kafka put it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The event's identity.
    pub event_id: [u8; 16],
    /// Its topic.
    pub topic: Arc<str>,
    /// The partition that Kafka's acknowledgement names.
    pub partition: i32,
    /// The offset that Kafka's acknowledgement names.
    pub offset: i64,
}

/// A notification: the channel and its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// NOTIFY channel.
    pub channel: String,
    /// JSON, below Postgres' limit of 8000 bytes whatever the topic.
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

/// The most partitions of which it is remembered what listeners have missed.
const MAX_MISSED: usize = 10_000;

/// What could not be told, as one range for each partition; so much of it, whatever comes.
#[derive(Debug, Default)]
pub struct Missed {
    ranges: BTreeMap<(Arc<str>, i32), Range>,
}

impl Missed {
    /// These could not be told.
    pub fn add(&mut self, published: &[Published]) {
        for run in runs(published) {
            let Some(Published { topic, partition, .. }) = run.first() else { continue };
            let key = (topic.clone(), *partition);
            if self.ranges.len() < MAX_MISSED || self.ranges.contains_key(&key) {
                self.ranges.entry(key).or_insert(Range::EMPTY).add(run);
            }
        }
    }

    /// What to tell, as with [`Mode::Batch`].
    #[must_use]
    pub fn notifications(&self) -> Vec<Notification> {
        let told = self.ranges.iter();
        told.map(|((topic, partition), range)| range.notification(topic, *partition)).collect()
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
        let told = notifications(
            Mode::Batch,
            &[at("a", 0, 5), at("b", 0, 1), at("a", 0, 4), at("a", 1, 9), at("a", 0, 6)],
        );
        let payloads: Vec<_> = told.iter().map(|n| (n.channel.as_str(), n.payload.as_str())).collect();
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
    fn what_was_missed_is_told_as_one_range_and_bounded() {
        let mut missed = Missed::default();
        assert!(missed.notifications().is_empty());
        missed.add(&[at("a", 0, 5), at("b", 0, 1)]);
        missed.add(&[at("a", 0, 9)]);
        let told = missed.notifications();
        assert_eq!(
            told[0].payload,
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
    fn an_event_is_told_by_itself() {
        let told = notifications(Mode::Event, &[at("a", 0, 5)]);
        assert_eq!(
            told[0].payload,
            r#"{"topic":"a","partition":0,"offset":5,"event_id":"07070707-0707-0707-0707-070707070707"}"#
        );
        assert_eq!(notifications(Mode::Off, &[at("a", 0, 5)]), vec![]);
    }
}
