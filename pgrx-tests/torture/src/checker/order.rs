//! Judges the order per topic and key.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use super::{Verdict, Violation};
use crate::evidence::{Evidence, Seen};
use crate::journal::Entry;

/// The last event of a key: its id and its partition.
type Last = (i64, i32);

impl Verdict {
    /// The first records of a key's events arrive in the order of the ids, all in one partition. Repetitions may arrive at
    /// any time, as may events that died: a redrive puts them behind what was published meanwhile.
    pub(super) fn judge_order(&mut self, evidence: &Evidence, entries: &HashMap<Uuid, &Entry>) {
        let mut in_order: Vec<&Seen> = evidence.records.iter().collect();
        in_order.sort_by_key(|record| (record.topic, record.generation, record.partition, record.offset));
        let mut seen: HashSet<Uuid> = HashSet::new();
        let mut last: HashMap<(usize, u16), Last> = HashMap::new();
        let mut busy: HashSet<(usize, u16)> = HashSet::new();
        for record in in_order {
            let Some(entry) = record.event_id.and_then(|event_id| entries.get(&event_id)) else { continue };
            let Some(key) = entry.key else { continue };
            if !evidence.expected(entry).keeps_order() || !seen.insert(entry.event_id) {
                continue;
            }
            let lane = (entry.topic, key);
            let Some((id, partition)) = last.insert(lane, (entry.id, record.partition)) else { continue };
            busy.insert(lane);
            if id > entry.id || partition != record.partition {
                let topic = &evidence.topics[entry.topic];
                self.report(Violation::Disordered, || {
                    format!(
                        "{topic} key {key}: {} after {id} of partition {partition}, in {record:?}",
                        entry.id
                    )
                });
            }
        }
        self.keys = busy.len();
    }
}
