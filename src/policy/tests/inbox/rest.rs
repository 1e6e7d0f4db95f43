//! How the small world comes to rest.

use event_outbox_policy::delivery::lanes::Micros;
use event_outbox_policy::inbox::plan::Waiting;
use proptest::prelude::*;

use crate::database::{PARTITIONS, Record};
use crate::receiver::Call;
use crate::world::{SESSIONS, Tested, World};

/// The most steps to the rest.
const STEPS: usize = 2_000;

impl World {
    /// All transactions end, and everything is received. Then nothing may be left.
    pub fn come_to_rest(&mut self) -> Tested {
        for _ in 0..STEPS {
            self.receive_all()?;
            let Some(next) = self.next_time() else {
                return self.nothing_is_left();
            };
            self.now = self.now.max(next);
        }
        Err(TestCaseError::fail(format!("no rest: {:?}", self.latest)))
    }

    /// Receives until nothing is due. Then whatever is left waits for a time, or behind an event of its key that does.
    pub fn receive_all(&mut self) -> Tested {
        for session in 0..SESSIONS {
            self.commit_session(session)?;
        }
        for _ in 0..STEPS {
            let before = (self.latest.clone(), self.notes.len());
            while !self.notes.is_empty() {
                self.record(0)?;
            }
            // What was read before a seek is dropped first.
            self.store(true)?;
            self.fetch(100);
            self.store(true)?;
            self.receive(Call { session: 0, left: 100, lease: None }, 0)?;
            self.commit_session(0)?;
            let after = &self.latest;
            let is_same = before.0.lanes == after.lanes && before.0.rows == after.rows;
            if is_same && self.notes.is_empty() && before.1 == 0 {
                return self.only_waiting_events_are_left();
            }
        }
        Err(TestCaseError::fail(format!("no pause: {:?}", self.latest)))
    }

    /// The time at which a waiting event is due or a lease expires.
    fn next_time(&self) -> Option<Micros> {
        let leases = self.latest.lanes.values().filter_map(|lane| lane.lease);
        let waiting = self.latest.waiting.values().filter_map(|(_, event)| event.next_attempt_at);
        leases.map(|lease| lease.expires_at).chain(waiting).filter(|at| *at > self.now).min()
    }

    /// The events that were stored since the last seek and are not done.
    pub fn left(&self) -> impl Iterator<Item = &Record> {
        let state = &self.latest;
        let current = self.log.iter().filter(|record| record.epoch == state.epochs[record.partition]);
        current.filter(|record| !state.is_done(record.position))
    }

    /// An event that fails keeps waiting only those of its key, as long as there is room for them.
    fn only_waiting_events_are_left(&self) -> Tested {
        let state = &self.latest;
        let is_leased = |lane| state.lane(lane).lease.is_some();
        let is_full = state.waiting.len() >= self.limits.room;
        for record in self.left().filter(|record| !is_leased(record.lane)) {
            let head = state.waiting.values().map(|(_, event)| event).find(|event| {
                event.position == record.position
                    || record.order_key.is_some() && event.order_key == record.order_key
            });
            let is_undue = |event: &Waiting| event.next_attempt_at.is_some_and(|at| at > self.now);
            let waits = state.waiting.contains_key(&record.position) && head.is_some_and(is_undue);
            prop_assert!(
                waits || is_full,
                "{} is not received although nothing of its key waits: {:?}",
                record.position,
                state
            );
        }
        Ok(())
    }

    fn nothing_is_left(&self) -> Tested {
        let left: Vec<i64> = self.left().map(|record| record.position).collect();
        prop_assert!(left.is_empty(), "left: {left:?} of {:?}", self.latest);
        prop_assert!(self.latest.waiting.is_empty(), "waiting: {:?}", self.latest.waiting);
        for partition in 0..PARTITIONS {
            let end = self.kafka[partition].len() as i64;
            prop_assert_eq!(self.latest.next_offsets[partition], end, "partition {} is behind", partition);
        }
        Ok(())
    }
}
