//! Owns the block of a closed lane.

use super::{Freed, Lane, Micros};
use crate::reading::backlog::Topic;

/// The subject of a block: a lane, or a single event without a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Gate {
    Lane(u64),
    Event(i64),
}

impl Gate {
    /// The lowest gate.
    pub(super) const FIRST: Self = Self::Lane(0);

    pub(super) fn of(lane: Lane, id: i64) -> Self {
        lane.map_or(Self::Event(id), Self::Lane)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// No event passes until then.
    Waiting { until: Micros },
    /// The wait is over: the event must be looked up.
    Due,
    /// The topic's turn will read the event, if it still exists.
    Awaited,
    /// The event was let through; its outcome is not known yet.
    Trying,
}

/// The event that closes a gate. Events with lower ids may pass.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block {
    pub(super) topic: Topic,
    pub(super) id: i64,
    pub(super) state: State,
    /// The lowest id that was turned away behind the event.
    pub(super) behind: Option<i64>,
}

impl Block {
    pub(super) fn turn_away(&mut self, id: i64) {
        self.behind = lower(self.behind, Some(id));
    }

    pub(super) fn freed(self) -> Freed {
        Freed { topic: self.topic, behind: self.behind }
    }
}

/// The lower of the values that are present.
fn lower(a: Option<i64>, b: Option<i64>) -> Option<i64> {
    a.into_iter().chain(b).min()
}
