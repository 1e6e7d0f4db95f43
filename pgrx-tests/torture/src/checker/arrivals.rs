//! Finds which events arrived, and whether each record is what was written.

use std::collections::HashMap;

use uuid::Uuid;

use super::{Verdict, Violation};
use crate::evidence::{Evidence, Seen, Span, key_digest};
use crate::journal::{Entry, Expected, Millis};
use crate::topics::key_text;

/// The records of each written event, as positions in the evidence.
pub struct Arrivals<'a> {
    evidence: &'a Evidence,
    records: HashMap<Uuid, Vec<usize>>,
}

impl<'a> Arrivals<'a> {
    /// Collects the records; reports those that differ from what was written.
    pub fn take(evidence: &'a Evidence, entries: &HashMap<Uuid, &Entry>, verdict: &mut Verdict) -> Self {
        let mut records: HashMap<Uuid, Vec<usize>> = HashMap::new();
        for (at, record) in evidence.records.iter().enumerate() {
            let Some(entry) = record.event_id.and_then(|event_id| entries.get(&event_id)) else {
                verdict.report(Violation::Invented, || format!("{record:?}"));
                continue;
            };
            if !evidence.is_committed(entry) {
                verdict.report(Violation::Ghost, || format!("{entry:?} came as {record:?}"));
            }
            if !is_unaltered(entry, record) {
                verdict.report(Violation::Altered, || format!("{entry:?} came as {record:?}"));
            }
            records.entry(entry.event_id).or_default().push(at);
        }
        Self { evidence, records }
    }

    /// Whether the event arrived.
    pub fn contains(&self, event_id: Uuid) -> bool {
        self.records.contains_key(&event_id)
    }

    /// The events and their records.
    pub fn iter(&self) -> impl Iterator<Item = (&Uuid, &Vec<usize>)> {
        self.records.iter()
    }

    /// The events that arrived again: when they had arrived before, and when again.
    pub fn repetitions(&self) -> impl Iterator<Item = (&Uuid, Span)> {
        self.records.iter().filter(|(_, records)| records.len() > 1).flat_map(|(event_id, records)| {
            let mut times: Vec<Millis> = records.iter().map(|at| self.evidence.records[*at].at).collect();
            times.sort_unstable();
            let pairs: Vec<Span> = times.windows(2).map(|pair| Span { from: pair[0], to: pair[1] }).collect();
            pairs.into_iter().map(move |between| (event_id, between))
        })
    }
}

fn is_unaltered(entry: &Entry, record: &Seen) -> bool {
    let key = entry.key.map(key_text);
    record.topic == entry.topic
        && record.key == key_digest(key.as_deref().map(str::as_bytes))
        && record.content == Some(entry.content)
}

impl Expected {
    /// Whether the event keeps its place in the order of its key.
    pub fn keeps_order(self) -> bool {
        matches!(self, Expected::Arrives | Expected::MayArrive)
    }
}
