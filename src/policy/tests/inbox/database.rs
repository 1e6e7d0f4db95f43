//! The database of the small world: what snapshots see, and what transactions change.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use event_outbox_policy::inbox::lane::LaneState;
use event_outbox_policy::inbox::plan::Waiting;

use crate::deliveries::Delivery;

pub const PARTITIONS: usize = 2;

/// A row of the log. Its position is its place in the log, from 1.
#[derive(Debug, Clone)]
pub struct Record {
    pub position: i64,
    pub partition: usize,
    pub offset: i64,
    pub lane: u16,
    pub order_key: Option<Vec<u8>>,
    /// How often its handler fails.
    pub failures: u32,
    /// How often its partition had been sought when it was stored.
    pub epoch: u32,
}

/// What a snapshot sees.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// The newest state of each lane.
    pub lanes: BTreeMap<u16, LaneState>,
    /// The rows of `inbox.retry`, each with its lane.
    pub waiting: BTreeMap<i64, (u16, Waiting)>,
    pub dead: BTreeSet<i64>,
    /// What the handlers have written.
    pub handled: BTreeSet<i64>,
    /// The number of rows of the log.
    pub rows: usize,
    pub next_offsets: [i64; PARTITIONS],
    pub first_positions: [i64; PARTITIONS],
    pub generation: u64,
    /// How often each partition was sought.
    pub epochs: [u32; PARTITIONS],
}

/// A change that a transaction makes.
#[derive(Debug, Clone)]
pub enum Change {
    Lane(u16, LaneState),
    Wait(u16, Waiting),
    /// The row of a waiting event is deleted.
    Gone(i64),
    Dead(i64),
    Handled(i64),
}

impl State {
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Lane(lane, state) => {
                self.lanes.insert(*lane, *state);
            }
            Change::Wait(lane, event) => {
                self.waiting.entry(event.position).or_insert_with(|| (*lane, event.clone()));
            }
            Change::Gone(position) => {
                self.waiting.remove(position);
            }
            Change::Dead(position) => {
                self.dead.insert(*position);
            }
            Change::Handled(position) => {
                self.handled.insert(*position);
            }
        }
    }

    /// What this snapshot sees after these changes.
    pub fn with(&self, changes: &[Change]) -> Self {
        let mut state = self.clone();
        changes.iter().for_each(|change| state.apply(change));
        state
    }

    pub fn lane(&self, lane: u16) -> LaneState {
        self.lanes.get(&lane).copied().unwrap_or(LaneState::first(0))
    }

    pub fn waiting_in(&self, lane: u16) -> Vec<Waiting> {
        self.waiting.values().filter(|(of, _)| *of == lane).map(|(_, event)| event.clone()).collect()
    }

    /// Whether a seek has discarded an event.
    pub fn is_skipped(&self, record: &Record) -> bool {
        record.position <= self.first_positions[record.partition]
    }

    /// Whether an event is done.
    pub fn is_done(&self, position: i64) -> bool {
        self.handled.contains(&position) || self.dead.contains(&position)
    }
}

/// A transaction of a session that receives.
#[derive(Debug, Default)]
pub struct Transaction {
    /// The snapshot to which it keeps, if it is REPEATABLE READ.
    pub snapshot: Option<Rc<State>>,
    pub changes: Vec<Change>,
    /// The locks of lanes, each with whether it was taken after the savepoint.
    pub locks: Vec<(u16, bool)>,
    /// The number of changes at the savepoint.
    pub savepoint: Option<usize>,
    pub deliveries: Vec<Delivery>,
}

impl Transaction {
    /// The events that were received and neither handled nor given back, in their order.
    pub fn left(&self) -> Vec<i64> {
        let is_handled = |position: i64| {
            self.changes.iter().any(|change| matches!(change, Change::Handled(at) if *at == position))
        };
        let mut left = Vec::new();
        for delivery in self.deliveries.iter().filter(|delivery| delivery.is_live()) {
            let open = |position: &i64| !delivery.is_given_back(*position) && !is_handled(*position);
            left.extend(delivery.positions.iter().copied().filter(open));
        }
        left.sort_unstable();
        left
    }
}
