//! Reacts to what Kafka says of topics: lost data, topics that were created again, new partitions and topics.
//!
//! Runs in: an ingest worker, main thread.

use event_outbox_policy::inbox::data_loss::{self, Continuation, Loss};
use pgrx::prelude::*;

use super::Ingest;
use crate::inbox::table::as_owner;
use crate::kafka::consumer::messages::{OutOfRange, Topics};
use crate::pg::spi::{Access, Statement};
use crate::worker::transaction;

static STOP: Statement = Statement::new(
    c"UPDATE inbox.partition SET state = 'stopped', stop_reason = $3, lost_from = $4, lost_to = $5, \
             stopped_at = pg_catalog.now() \
       WHERE source_id OPERATOR(pg_catalog.=) $1 AND number OPERATOR(pg_catalog.=) $2",
    &[pg_sys::INT4OID, pg_sys::INT4OID, pg_sys::TEXTOID, pg_sys::INT8OID, pg_sys::INT8OID],
);

static NAME_TOPIC: Statement = Statement::new(
    c"UPDATE inbox.partition SET topic_id = $3 \
       WHERE source_id OPERATOR(pg_catalog.=) $1 AND topic OPERATOR(pg_catalog.=) $2",
    &[pg_sys::INT4OID, pg_sys::TEXTOID, pg_sys::TEXTOID],
);

static ADD: Statement = Statement::new(
    c"INSERT INTO inbox.partition (source_id, number, topic, partition, topic_id, start_offset) \
      VALUES ($1, $2, $3, $4, $5, 0) ON CONFLICT DO NOTHING",
    &[pg_sys::INT4OID, pg_sys::INT4OID, pg_sys::TEXTOID, pg_sys::INT4OID, pg_sys::TEXTOID],
);

/// Far beyond the end of any partition: whoever begins there learns where the end is.
const BEYOND: i64 = i64::MAX - 1;

impl Ingest {
    /// Kafka does not have the next record of a partition.
    pub(super) fn lost_data(&mut self, place: usize, found: &OutOfRange) {
        let definition = &self.sources[place].definition;
        let Ok(number) = usize::try_from(found.number) else { return };
        let Some(partition) = definition.partitions.get(number) else { return };
        let (low, high) = (found.low, found.high);
        let loss = Loss::of(partition.next_offset, low, high);
        let continuation = if partition.next_offset >= BEYOND {
            // It was sent there to find the end.
            Continuation::At(high)
        } else {
            definition.on_data_loss.continuation(low, high)
        };
        self.react(place, number, loss, continuation);
    }

    /// A partition goes on, or stops, after a loss.
    fn react(&mut self, place: usize, number: usize, loss: Loss, continuation: Continuation) {
        let definition = &self.sources[place].definition;
        let partition = &definition.partitions[number];
        let what = format!(
            "subscription \"{}\", partition {} of topic \"{}\": {loss}",
            definition.name, partition.partition, partition.topic
        );
        match continuation {
            Continuation::At(offset) => {
                if partition.next_offset < BEYOND {
                    tracing::warn!("{what}; reading goes on at offset {offset}");
                }
                self.sources[place].definition.partitions[number].next_offset = offset;
                self.sources[place].assign();
            }
            Continuation::Stop => {
                let remedy = data_loss::remedy(&definition.name, &partition.topic, partition.partition);
                let reason = format!("{loss}. {remedy}");
                let (from, to) = loss.range();
                let arguments = [
                    definition.id.into_datum(),
                    i32::try_from(number).unwrap_or(i32::MAX).into_datum(),
                    reason.into_datum(),
                    from.into_datum(),
                    to.into_datum(),
                ];
                let stop = || as_owner(|| STOP.execute(&arguments, Access::Write, 0).len());
                if self.note(transaction::run(c"event_outbox: stopping a partition", stop)).is_some() {
                    tracing::warn!("{what}; the partition is stopped. {remedy}");
                }
                self.slot.show_error(&what);
                self.sources[place].definition.partitions[number].is_stopped = true;
                self.sources[place].assign();
            }
        }
    }

    /// The topics were looked up.
    pub(super) fn found_topics(&mut self, place: usize, topics: &Topics) {
        for (topic, reason) in &topics.missing {
            let name = &self.sources[place].definition.name;
            self.slot.show_error(&format!("subscription \"{name}\" cannot read topic \"{topic}\": {reason}"));
        }
        for found in &topics.found {
            if let Some(id) = &found.id {
                self.compare_id(place, &found.topic, id);
            }
            self.add_partitions(place, &found.topic, found.id.as_deref(), found.partitions);
        }
    }

    /// Reacts if a topic has another id than before.
    fn compare_id(&mut self, place: usize, topic: &str, id: &str) {
        let source = &mut self.sources[place];
        let is_of_topic = |partition: &&mut super::catalog::Partition| partition.topic == topic;
        let mut known = source.definition.partitions.iter_mut().filter(is_of_topic);
        let Some(before) = known.next().map(|partition| partition.topic_id.clone()) else { return };
        if before.as_deref() == Some(id) {
            return;
        }
        let arguments = [source.definition.id.into_datum(), topic.into_datum(), id.into_datum()];
        let rename = || as_owner(|| NAME_TOPIC.execute(&arguments, Access::Write, 0).len());
        if self.note(transaction::run(c"event_outbox: storing the id of a topic", rename)).is_none() {
            return;
        }
        let source = &mut self.sources[place];
        for partition in source.definition.partitions.iter_mut().filter(is_of_topic) {
            partition.topic_id = Some(id.to_owned());
        }
        if before.is_none() {
            return;
        }
        for number in 0..self.sources[place].definition.partitions.len() {
            let definition = &self.sources[place].definition;
            let partition = &definition.partitions[number];
            if partition.topic != topic || partition.is_stopped {
                continue;
            }
            let loss = Loss::Recreated(partition.next_offset);
            let continuation = definition.on_data_loss.continuation(0, BEYOND);
            self.react(place, number, loss, continuation);
        }
    }

    /// Adds the partitions of a topic that are new, from their beginning.
    fn add_partitions(&mut self, place: usize, topic: &str, id: Option<&str>, count: i32) {
        let definition = &self.sources[place].definition;
        let (index, of) = definition.share;
        let is_known = |partition: i32| {
            definition.partitions.iter().any(|known| known.partition == partition && known.topic == topic)
        };
        let new: Vec<i32> = (0..count)
            .filter(|partition| partition.rem_euclid(of) == index - 1 && !is_known(*partition))
            .collect();
        if new.is_empty() {
            return;
        }
        let next = i32::try_from(definition.partitions.len()).unwrap_or(i32::MAX);
        let source = definition.id;
        let add = || {
            as_owner(|| {
                for (number, partition) in (next..).zip(&new) {
                    let arguments = [
                        source.into_datum(),
                        number.into_datum(),
                        topic.into_datum(),
                        partition.into_datum(),
                        id.into_datum(),
                    ];
                    ADD.execute(&arguments, Access::Write, 0);
                }
            });
        };
        // The commit has the definition read again.
        let _ = self.note(transaction::run(c"event_outbox: adding partitions", add));
    }
}
