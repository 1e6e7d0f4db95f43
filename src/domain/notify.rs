//! What consumers inside the database are told about published events.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use uuid::Uuid;

use crate::topic;

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
    let mut ranges: BTreeMap<(&str, i32), Batch<'_>> = BTreeMap::new();
    // Acknowledgements come in runs of one partition.
    for run in published.chunk_by(|a, b| a.partition == b.partition && Arc::ptr_eq(&a.topic, &b.topic)) {
        let Some(Published { topic, partition, offset, .. }) = run.first() else { continue };
        let range = ranges.entry((topic, *partition)).or_insert(Batch {
            topic,
            partition: *partition,
            first_offset: *offset,
            last_offset: *offset,
            count: 0,
        });
        for event in run {
            range.first_offset = range.first_offset.min(event.offset);
            range.last_offset = range.last_offset.max(event.offset);
        }
        range.count += run.len();
    }
    ranges.values().map(|range| notification(range.topic, range)).collect()
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
    fn an_event_is_told_by_itself() {
        let told = notifications(Mode::Event, &[at("a", 0, 5)]);
        assert_eq!(
            told[0].payload,
            r#"{"topic":"a","partition":0,"offset":5,"event_id":"07070707-0707-0707-0707-070707070707"}"#
        );
        assert_eq!(notifications(Mode::Off, &[at("a", 0, 5)]), vec![]);
    }
}
