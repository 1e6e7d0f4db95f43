//! Checks the promises at each step.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use crate::database::{Change, Record, State};
use crate::world::Tested;

#[derive(Debug, Default)]
pub struct Judge {
    /// How often the handler of each event has failed.
    pub failures: BTreeMap<i64, u32>,
    /// The events that have failed alone.
    alone: BTreeSet<i64>,
}

/// The earlier events of the same order key that a seek has not discarded.
fn before<'a>(state: &'a State, log: &'a [Record], position: i64) -> impl Iterator<Item = &'a Record> {
    let event = &log[position as usize - 1];
    log.iter().take_while(move |earlier| earlier.position < position).filter(|earlier| {
        event.order_key.is_some()
            && earlier.order_key == event.order_key
            && earlier.epoch == state.epochs[earlier.partition]
    })
}

impl Judge {
    /// A transaction commits this change.
    pub fn may_commit(&self, state: &State, log: &[Record], change: &Change) -> Tested {
        match change {
            Change::Handled(position) => {
                prop_assert!(!state.handled.contains(position), "{position} is handled twice");
                prop_assert!(!state.dead.contains(position), "{position} is handled and dead");
                for earlier in before(state, log, *position) {
                    let earlier = earlier.position;
                    prop_assert!(state.is_done(earlier), "{position} is handled before {earlier} of its key");
                }
            }
            Change::Dead(position) => {
                prop_assert!(!state.is_done(*position), "{position} dies although it is done");
            }
            Change::Lane(..) | Change::Wait(..) | Change::Gone(_) => {}
        }
        Ok(())
    }

    /// An event is received.
    pub fn may_be_received(
        &self,
        state: &State,
        snapshot: Option<&State>,
        log: &[Record],
        position: i64,
    ) -> Tested {
        let event = &log[position as usize - 1];
        let epoch = state.epochs[event.partition];
        prop_assert!(event.epoch == epoch, "{position} is received although a seek has discarded it");
        let Some(snapshot) = snapshot else { return Ok(()) };
        for earlier in before(state, log, position).filter(|event| state.handled.contains(&event.position)) {
            prop_assert!(
                snapshot.handled.contains(&earlier.position),
                "{position} is received by who does not see the work of {}",
                earlier.position
            );
        }
        Ok(())
    }

    /// Events are parked.
    pub fn rows_are_bounded(&self, view: &State, changes: &[Change], room: usize) -> Tested {
        let parks = changes.iter().filter(|change| matches!(change, Change::Wait(..))).count();
        prop_assert!(parks == 0 || view.waiting.len() + parks <= room, "too many events wait");
        Ok(())
    }

    /// These events have failed together.
    pub fn has_failed(&mut self, positions: &[i64]) {
        if let [position] = positions {
            self.alone.insert(*position);
        }
    }

    /// An event is charged.
    pub fn may_be_charged(&self, position: i64) -> Tested {
        prop_assert!(self.alone.contains(&position), "{position} is charged for what it did not do");
        Ok(())
    }

    /// A row is stored: each offset comes once, in order, after each seek.
    pub fn may_be_stored(&self, expected: i64, record: &Record) -> Tested {
        prop_assert_eq!(record.offset, expected, "partition {}: wrong offset", record.partition);
        Ok(())
    }

    /// The server crashed and has lost the rows after these.
    pub fn forget_after(&mut self, rows: usize) {
        let is_kept = |position: &i64| *position <= rows as i64;
        self.failures.retain(|position, _| is_kept(position));
        self.alone.retain(is_kept);
    }
}
