//! The ingest worker of the small world, and seeks.

use std::rc::Rc;

use crate::database::{Change, PARTITIONS, Record, State};
use crate::variant::Variant;
use crate::world::{Tested, World};

/// What the worker remembers.
#[derive(Debug, Default)]
pub struct Ingest {
    generation: u64,
    /// Where it reads on.
    offsets: [i64; PARTITIONS],
    /// What it has read and not stored yet: partitions and offsets.
    batch: Vec<(usize, i64)>,
}

impl Ingest {
    /// Goes on where the tables say.
    pub fn of(state: &State) -> Self {
        Self { generation: state.generation, offsets: state.next_offsets, batch: Vec::new() }
    }
}

impl World {
    pub fn fetch(&mut self, most: usize) {
        for partition in 0..PARTITIONS {
            let end = self.kafka[partition].len() as i64;
            let from = self.ingest.offsets[partition];
            let to = end.min(from + most as i64).max(from);
            self.ingest.batch.extend((from..to).map(|offset| (partition, offset)));
            self.ingest.offsets[partition] = to;
        }
    }

    /// Stores what was read, with the next offsets, in one transaction.
    pub fn store(&mut self, succeeds: bool) -> Tested {
        let is_current =
            self.ingest.generation == self.latest.generation || self.variant == Variant::NoGeneration;
        if !succeeds && self.variant == Variant::OffsetsBeforeRows {
            self.ingest.batch.clear();
            return Ok(());
        }
        if !succeeds || !is_current {
            self.ingest = Ingest::of(&self.latest);
            return Ok(());
        }
        let batch = std::mem::take(&mut self.ingest.batch);
        let mut state = (*self.latest).clone();
        for (partition, offset) in batch {
            let record = self.record_of(&state, partition, offset);
            self.judge.may_be_stored(state.next_offsets[partition], &record)?;
            self.log.push(record);
            state.rows += 1;
            state.next_offsets[partition] = offset + 1;
        }
        self.latest = Rc::new(state);
        Ok(())
    }

    fn record_of(&self, state: &State, partition: usize, offset: i64) -> Record {
        let event = self.kafka[partition][offset as usize];
        let key = event.key.map(str::as_bytes);
        let number = partition as i32;
        Record {
            position: state.rows as i64 + 1,
            partition,
            offset,
            lane: self.limits.ordering.lane(key, number, offset),
            order_key: self.limits.ordering.order_key(key, "topic", number),
            failures: event.failures,
            epoch: state.epochs[partition],
        }
    }

    /// Moves a partition. What of it is stored and not received is discarded.
    pub fn seek(&mut self, partition: usize, to: i64) {
        let is_of_it = |position: i64| self.log[position as usize - 1].partition == partition;
        // It waits for transactions that have deleted rows of waiting events, and for those that are inserting some.
        let is_awaited = |change: &Change| match change {
            Change::Gone(position) => is_of_it(*position),
            Change::Wait(_, event) => self.variant != Variant::SeekMissesParked && is_of_it(event.position),
            Change::Lane(..) | Change::Dead(_) | Change::Handled(_) => false,
        };
        let open = self.sessions.iter().filter_map(|session| session.open());
        if open.flat_map(|transaction| &transaction.changes).any(is_awaited) {
            return;
        }
        let mut state = (*self.latest).clone();
        state.generation += 1;
        state.epochs[partition] += 1;
        state.next_offsets[partition] = to.min(self.kafka[partition].len() as i64);
        state.first_positions[partition] = state.rows as i64;
        state.waiting.retain(|position, _| !is_of_it(*position));
        self.latest = Rc::new(state);
        self.durable = self.latest.clone();
    }
}
