//! Reacts to what Kafka says of topics: lost data, topics that were created again, new partitions and topics.
//!
//! A reaction is stored in one transaction before it counts. If that fails, the partitions are assigned again, and Kafka says
//! the same again.
//!
//! Runs in: an ingest worker, main thread.

use event_outbox_policy::inbox::data_loss::{self, Continuation, Loss};
use event_outbox_policy::inbox::topics;
use pgrx::prelude::*;

use super::Ingest;
use super::catalog::{Definition, Partition};
use super::registration::SUBSCRIPTIONS_CHANGED;
use super::store::{self, Stored};
use crate::inbox::table::as_owner;
use crate::kafka::consumer::messages::{LastRead, OutOfRange, Topics};
use crate::kafka::topics::FoundTopic;
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

/// What is to be stored of a reaction.
#[derive(Default)]
struct Reaction {
    /// A topic and its new id.
    id: Option<(String, String)>,
    /// Partitions that stop, by their numbers, each with what was lost.
    stops: Vec<(usize, Loss)>,
    /// Partitions that go on, by their numbers, each with the next offset and what was lost.
    moves: Vec<(usize, i64, Loss)>,
}

impl Reaction {
    fn add(&mut self, number: usize, loss: Loss, continuation: Continuation) {
        match continuation {
            Continuation::Stop => self.stops.push((number, loss)),
            Continuation::At(offset) => self.moves.push((number, offset, loss)),
        }
    }

    /// Stores it, in a transaction. Returns what kept it from that, if anything.
    fn store(&self, definition: &Definition, after: i64) -> Option<Stored> {
        as_owner(|| {
            if let Some(obstacle) = store::obstacle(definition.id, definition.generation) {
                return Some(obstacle);
            }
            let source = definition.id.into_datum();
            if let Some((topic, id)) = &self.id {
                let arguments = [source, topic.as_str().into_datum(), id.as_str().into_datum()];
                NAME_TOPIC.execute(&arguments, Access::Write, 0);
            }
            for (number, loss) in &self.stops {
                let (from, to) = loss.range();
                let number_of = i32::try_from(*number).unwrap_or(i32::MAX);
                let reason = format!("{loss}. {}", remedy(definition, *number, loss));
                let arguments =
                    [source, number_of.into_datum(), reason.into_datum(), from.into_datum(), to.into_datum()];
                STOP.execute(&arguments, Access::Write, 0);
            }
            if !self.moves.is_empty() {
                let mut next: Vec<Option<i64>> =
                    definition.partitions.iter().map(|partition| Some(partition.next_offset)).collect();
                let mut last: Vec<Option<LastRead>> =
                    definition.partitions.iter().map(|partition| partition.last_read).collect();
                for (number, offset, _) in &self.moves {
                    (next[*number], last[*number]) = (Some(*offset), None);
                }
                store::insert_progress(definition, definition.batch + 1, &next, &last, None, after);
            }
            None
        })
    }
}

impl Ingest {
    /// Kafka does not have the next record of a partition.
    pub(super) fn lost_data(&mut self, place: usize, found: &OutOfRange) {
        let definition = &self.sources[place].definition;
        let Ok(number) = usize::try_from(found.number) else { return };
        let Some(partition) = definition.partitions.get(number) else { return };
        let truncated = || Some(Loss::Truncated(found.truncated_at?, partition.next_offset));
        let Some(loss) = Loss::of(partition.next_offset, found.low, found.high).or_else(truncated) else {
            let source = &mut self.sources[place];
            // Kafka has the next record, but perhaps not the last one any more.
            source.definition.partitions[number].last_read = None;
            source.assign();
            return;
        };
        let continuation = if partition.next_offset >= BEYOND {
            // It was sent there to find the end.
            Continuation::At(found.high)
        } else {
            // What was read before a truncated log differs is not read again.
            let first = found.truncated_at.map_or(found.low, |from| from.max(found.low));
            definition.on_data_loss.continuation(first, found.high)
        };
        let mut reaction = Reaction::default();
        reaction.add(number, loss, continuation);
        self.react(place, &reaction);
    }

    /// Stores a reaction, and reads on accordingly.
    fn react(&mut self, place: usize, reaction: &Reaction) {
        let definition = &self.sources[place].definition;
        let after = self.last_position;
        let stored =
            transaction::run(c"event_outbox: reacting to Kafka", || reaction.store(definition, after));
        match self.note(stored) {
            Some(None) => self.carry_out(place, reaction),
            Some(Some(Stored::Busy)) | None => self.sources[place].put_off(),
            Some(Some(Stored::Outdated | Stored::UpTo(_))) => self.slot.notify(SUBSCRIPTIONS_CHANGED),
        }
    }

    /// Reads on as a reaction says that is stored.
    fn carry_out(&mut self, place: usize, reaction: &Reaction) {
        let definition = &mut self.sources[place].definition;
        if let Some((topic, id)) = &reaction.id {
            for partition in definition.partitions.iter_mut().filter(|partition| partition.topic == *topic) {
                partition.topic_id = Some(id.clone());
            }
        }
        for (number, loss) in &reaction.stops {
            let what = describe(definition, *number, loss);
            tracing::warn!("{what}; the partition is stopped. {}", remedy(definition, *number, loss));
            self.slot.show_error(&what);
            definition.partitions[*number].is_stopped = true;
        }
        for (number, offset, loss) in &reaction.moves {
            if definition.partitions[*number].next_offset < BEYOND {
                let next =
                    if *offset == BEYOND { "the next record".into() } else { format!("offset {offset}") };
                tracing::warn!("{}; reading goes on with {next}", describe(definition, *number, loss));
            }
            definition.partitions[*number].next_offset = *offset;
            definition.partitions[*number].last_read = None;
        }
        definition.batch += i64::from(!reaction.moves.is_empty());
        if !(reaction.stops.is_empty() && reaction.moves.is_empty()) {
            self.sources[place].assign();
        }
    }

    /// The topics were looked up.
    pub(super) fn found_topics(&mut self, place: usize, topics: &Topics) {
        self.sources[place].has_trouble = !topics.missing.is_empty();
        for (topic, reason) in &topics.missing {
            let name = &self.sources[place].definition.name;
            self.slot.show_error(&format!("subscription \"{name}\" cannot read topic \"{topic}\": {reason}"));
        }
        let mut has_changed = false;
        for found in &topics.found {
            self.note_leaders(place, found);
        }
        self.sources[place].has_trouble |= self.sources[place].lacks_leaders();
        for found in &topics.found {
            if !self.compare_id(place, found) {
                return;
            }
            has_changed |= self.sources[place].note_partitions(&found.topic, found.partitions);
            self.add_partitions(place, &found.topic, found.id.as_deref(), found.partitions);
        }
        if has_changed {
            self.sources[place].assign();
        }
    }

    /// Says which partitions have no leader, and when all have one again.
    fn note_leaders(&mut self, place: usize, found: &FoundTopic) {
        let Some(leaderless) = self.sources[place].note_leaderless(&found.topic, &found.leaderless) else {
            return;
        };
        let name = &self.sources[place].definition.name;
        let Some(error) = topics::without_leader(name, &found.topic, leaderless) else {
            return tracing::info!(
                "all partitions of topic \"{}\" that subscription \"{name}\" reads have a leader again",
                found.topic
            );
        };
        tracing::warn!("{error}");
        self.slot.show_error(&error);
    }

    /// Reacts if a topic has another id than before. Returns whether its id is certain; if not, another consumer is to say it.
    fn compare_id(&mut self, place: usize, found: &FoundTopic) -> bool {
        let Some(id) = &found.id else { return true };
        let definition = &self.sources[place].definition;
        let is_other =
            |(_, of): &(usize, &Partition)| of.topic == found.topic && of.topic_id.as_ref() != Some(id);
        // Not all have the same id if one was sought that was stopped.
        let others: Vec<usize> =
            definition.partitions.iter().enumerate().filter(is_other).map(|(number, _)| number).collect();
        if others.is_empty() {
            self.sources[place].other_ids.remove(&found.topic);
            return true;
        }
        let is_recreated = others.iter().any(|number| definition.partitions[*number].topic_id.is_some());
        if is_recreated && !self.sources[place].confirms(&found.topic, id) {
            return false;
        }
        let definition = &self.sources[place].definition;
        let mut reaction = Reaction { id: Some((found.topic.clone(), id.clone())), ..Reaction::default() };
        for number in others {
            let partition = &definition.partitions[number];
            if partition.topic_id.is_some() && !partition.is_stopped {
                let loss = Loss::Recreated(partition.next_offset);
                // One that does not exist is read from its beginning if it is added.
                let end = if partition.partition < found.partitions { BEYOND } else { 0 };
                reaction.add(number, loss, definition.on_data_loss.continuation(0, end));
            }
        }
        self.react(place, &reaction);
        true
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
        let (source, generation) = (definition.id, definition.generation);
        let add = || {
            as_owner(|| {
                if store::obstacle(source, generation).is_some() {
                    return;
                }
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
        // The commit has the definition read again. After a failure, the next look at the topics finds them again.
        let _ = self.note(transaction::run(c"event_outbox: adding partitions", add));
    }
}

/// What happened to a partition.
fn describe(definition: &Definition, number: usize, loss: &Loss) -> String {
    let partition = &definition.partitions[number];
    format!(
        "subscription \"{}\", partition {} of topic \"{}\": {loss}",
        definition.name, partition.partition, partition.topic
    )
}

/// What to type to have a stopped partition read again.
fn remedy(definition: &Definition, number: usize, loss: &Loss) -> String {
    let partition = &definition.partitions[number];
    if definition.is_projection {
        return data_loss::projection_remedy(&definition.name);
    }
    data_loss::remedy(loss, &definition.name, &partition.topic, partition.partition)
}
