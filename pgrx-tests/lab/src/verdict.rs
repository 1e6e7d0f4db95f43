//! Compares the events that were promised with the records that arrived.

use std::collections::{HashMap, HashSet};

use serde_json::Value;
use uuid::Uuid;

use crate::Record;

/// A committed event, recorded in the same transaction.
#[derive(Clone, Debug)]
pub struct Promise {
    /// Grows in the order of the commits, among events of the same key.
    pub seq: i64,
    /// What `outbox.emit` returned.
    pub event_id: Uuid,
    /// The event's key.
    pub key: String,
    /// The event's payload.
    pub payload: Value,
    /// `pg_xact_commit_timestamp` of its transaction, in milliseconds since 1970.
    pub committed_ms: f64,
}

/// The comparison. Everything but `published`, `busy_keys` and `latencies_ms` must be zero.
#[derive(Debug, Default, PartialEq)]
pub struct Verdict {
    /// Records found in Kafka.
    pub published: usize,
    /// Promises without a record.
    pub lost: usize,
    /// Records without a promise.
    pub invented: usize,
    /// Records beyond the first of an event.
    pub duplicated: usize,
    /// Records whose key or payload is not what was promised.
    pub altered: usize,
    /// Records behind a later one of the same key, or in another partition than it.
    pub out_of_order: usize,
    /// Keys with more than one event: only those can be out of order.
    pub busy_keys: usize,
    /// From commit to the record's timestamp, sorted.
    pub latencies_ms: Vec<f64>,
}

impl Verdict {
    /// Compares promises with the records of a topic.
    pub fn of(promises: &[Promise], records: &[Record]) -> Self {
        let promised: HashMap<Uuid, &Promise> = promises.iter().map(|p| (p.event_id, p)).collect();
        let mut verdict = Verdict { published: records.len(), ..Verdict::default() };
        let mut seen = HashSet::new();
        let mut last_of_key: HashMap<&str, (i32, i64)> = HashMap::new();
        let mut busy = HashSet::new();
        let mut in_order: Vec<_> = records.iter().collect();
        in_order.sort_by_key(|record| (record.partition, record.offset));

        for record in in_order {
            let id = record.header("ce_id").and_then(|id| Uuid::parse_str(id).ok());
            let Some(promise) = id.and_then(|id| promised.get(&id)) else {
                verdict.invented += 1;
                continue;
            };
            if !seen.insert(promise.event_id) {
                verdict.duplicated += 1;
                continue;
            }
            let payload: Option<Value> = record.value.as_deref().and_then(|v| serde_json::from_slice(v).ok());
            if payload.as_ref() != Some(&promise.payload) || record.key_text() != Some(&promise.key) {
                verdict.altered += 1;
            }
            let here = (record.partition, promise.seq);
            if let Some((partition, seq)) = last_of_key.insert(&promise.key, here) {
                busy.insert(&promise.key);
                if partition != record.partition || seq > promise.seq {
                    verdict.out_of_order += 1;
                }
            }
            if let Some(timestamp) = record.timestamp_ms {
                // The timestamp is truncated to whole milliseconds.
                verdict.latencies_ms.push((timestamp as f64 - promise.committed_ms).max(0.0));
            }
        }
        verdict.lost = promises.len() - seen.len();
        verdict.busy_keys = busy.len();
        verdict.latencies_ms.sort_by(f64::total_cmp);
        verdict
    }

    /// Whether each promised event arrived exactly once and in order, and nothing else did.
    pub fn is_clean(&self) -> bool {
        self.lost + self.invented + self.duplicated + self.altered + self.out_of_order == 0
    }

    /// A percentile of the latency, in milliseconds.
    pub fn latency_ms(&self, percent: usize) -> f64 {
        let last = self.latencies_ms.len().saturating_sub(1);
        self.latencies_ms.get(last * percent / 100).copied().unwrap_or(f64::NAN)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn promise(seq: i64, key: &str) -> Promise {
        let event_id = Uuid::from_u128(seq as u128);
        Promise { seq, event_id, key: key.into(), payload: json!({"n": seq}), committed_ms: 1000.0 }
    }

    fn record(seq: i64, key: &str, partition: i32, offset: i64) -> Record {
        Record {
            topic: "t".into(),
            partition,
            offset,
            key: Some(key.into()),
            value: Some(json!({"n": seq}).to_string().into_bytes()),
            headers: vec![("ce_id".into(), Some(Uuid::from_u128(seq as u128).to_string().into_bytes()))],
            timestamp_ms: Some(1000 + seq),
        }
    }

    fn promises() -> Vec<Promise> {
        vec![promise(1, "a"), promise(2, "b"), promise(3, "a")]
    }

    #[test]
    fn all_kept() {
        let verdict =
            Verdict::of(&promises(), &[record(1, "a", 0, 0), record(2, "b", 1, 0), record(3, "a", 0, 1)]);
        assert!(verdict.is_clean());
        assert_eq!((verdict.published, verdict.busy_keys), (3, 1));
        assert_eq!((verdict.latency_ms(0), verdict.latency_ms(50), verdict.latency_ms(100)), (1.0, 2.0, 3.0));
    }

    #[test]
    fn a_missing_record_is_lost() {
        assert_eq!(Verdict::of(&promises(), &[record(1, "a", 0, 0), record(2, "b", 1, 0)]).lost, 1);
    }

    #[test]
    fn a_record_of_no_event_is_invented() {
        let mut anonymous = record(1, "a", 0, 0);
        anonymous.headers.clear();
        assert_eq!(Verdict::of(&promises(), &[record(9, "a", 0, 0), anonymous]).invented, 2);
    }

    #[test]
    fn the_second_record_of_an_event_is_a_duplicate() {
        let verdict =
            Verdict::of(&promises(), &[record(1, "a", 0, 0), record(3, "a", 0, 1), record(1, "a", 0, 2)]);
        assert_eq!((verdict.duplicated, verdict.out_of_order), (1, 0));
    }

    #[test]
    fn a_changed_payload_or_key_is_altered() {
        let mut payload = record(1, "a", 0, 0);
        payload.value = None;
        assert_eq!(Verdict::of(&promises(), &[payload, record(2, "x", 0, 1)]).altered, 2);
    }

    #[test]
    fn a_later_event_first_is_out_of_order() {
        assert_eq!(Verdict::of(&promises(), &[record(3, "a", 0, 0), record(1, "a", 0, 1)]).out_of_order, 1);
    }

    #[test]
    fn a_key_in_two_partitions_is_out_of_order() {
        assert_eq!(Verdict::of(&promises(), &[record(1, "a", 0, 0), record(3, "a", 1, 0)]).out_of_order, 1);
    }
}
