//! The order per topic and key while an event waits for its next attempt.
//!
//! ```text
//!          block                  due                 admits, of the event
//!  (free) -------> Waiting until ------> Due (rewind) ---------------------> Trying
//!    ^                ^                   |                                  |    |
//!    |                |                   | swept: it vanished (rewind)      |    |
//!    |                |                   v                                  |    |
//!    +----------------|-------------------+<---------------------------------+    |
//!                     |                      release: delivered or dead (rewind)  |
//!                     +-----------------------------------------------------------+
//!                        block: refused again
//! ```
//!
//! A refused event closes its lane, the events of its topic and key, for itself and for higher ids; all other
//! lanes flow. When its wait is over only the event itself may pass, and those behind it follow when it is
//! delivered or dead: if they followed at once, its next refusal would come too late for them. Events of the
//! lane that were in flight when it was first refused cannot be called back.
//!
//! Rows behind a closed lane stay in the table; of them only the lowest id is remembered, so that memory
//! follows the number of lanes that are closed. The caller rewinds the sweep to where this module says, and
//! the rows are read again. What the caller must keep to:
//!
//! - it sweeps in ascending ids, and asks [`Lanes::admits`] about each row that is not in flight, when it has
//!   room to hand it out at once;
//! - when a pass has ended, it says so by [`Lanes::swept`];
//! - it calls all else between passes, and rewinds before the next one begins.

use std::collections::{BTreeMap, BTreeSet};

use crate::sweep::Reached;

/// The identity of a topic and key, hashed by the caller. Two that collide merely wait for each other.
/// `None` stands for an event without a key: it can wait itself, but nothing waits for it.
pub type Lane = Option<u64>;

/// A point in time, in microseconds of the caller's clock.
pub type Micros = i64;

/// What is closed: a lane, or a single event without a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Gate {
    Lane(u64),
    Event(i64),
}

impl Gate {
    fn of(lane: Lane, id: i64) -> Self {
        lane.map_or(Self::Event(id), Self::Lane)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nobody passes.
    Waiting { until: Micros },
    /// The sweep was rewound and will read the event, if it still exists.
    Due,
    /// The event was let through; its fate is not known.
    Trying,
}

/// Why a gate is closed. It lets ids below `id` through.
#[derive(Debug, Clone, Copy)]
struct Hold {
    id: i64,
    state: State,
    /// The lowest id that was turned away behind the event.
    behind: Option<i64>,
}

impl Hold {
    fn turn_away(&mut self, id: i64) {
        self.behind = lower(self.behind, Some(id));
    }
}

/// The lower one of those that there are.
fn lower(a: Option<i64>, b: Option<i64>) -> Option<i64> {
    a.into_iter().chain(b).min()
}

/// Where a sweep has to start to read this id.
fn before(id: Option<i64>) -> Option<i64> {
    id.map(|id| id.saturating_sub(1))
}

/// The lanes that are closed.
#[derive(Debug)]
pub struct Lanes {
    limit: usize,
    holds: BTreeMap<Gate, Hold>,
    /// Those of `holds` that are waiting, by time.
    timers: BTreeSet<(Micros, Gate)>,
    /// Those of `holds` that are due, by id.
    due: BTreeMap<i64, Gate>,
}

impl Lanes {
    /// With no lane closed. `limit` bounds how many may wait before [`Lanes::full`] asks to stop sweeping.
    pub fn new(limit: usize) -> Self {
        Self { limit, holds: BTreeMap::new(), timers: BTreeSet::new(), due: BTreeMap::new() }
    }

    /// Closes a lane because this event was refused, or was found waiting, until its next attempt.
    ///
    /// Of several in a lane, the lowest id decides until when; called again for that one, the new time holds.
    pub fn block(&mut self, lane: Lane, id: i64, until: Micros) {
        self.close(Gate::of(lane, id), id, State::Waiting { until });
    }

    /// Whether a row that the sweep read may be handed out now. `not_before` is the row's own next attempt,
    /// which only an event that was refused has.
    pub fn admits(&mut self, lane: Lane, id: i64, not_before: Option<Micros>, now: Micros) -> bool {
        let gate = Gate::of(lane, id);
        let hold = self.holds.get_mut(&gate).filter(|hold| hold.id <= id);
        let refused_before = hold.is_some() || not_before.is_some();
        match (hold, not_before) {
            (_, Some(until)) if until > now => self.block(lane, id, until),
            (Some(hold), _) if hold.id < id => hold.turn_away(id),
            (Some(Hold { state: State::Waiting { .. }, .. }), until) => {
                // The row says that its wait is over: somebody shortened it, and `due` is to notice.
                if let Some(until) = until {
                    self.block(lane, id, until);
                }
            }
            _ => {
                if refused_before {
                    self.let_through(gate, id);
                }
                return true;
            }
        }
        false
    }

    /// An event that was admitted is refused without being sent, which is settled later: nothing of its lane passes
    /// until then.
    pub fn hold_back(&mut self, lane: Lane, id: i64) {
        if lane.is_some() {
            self.close(Gate::of(lane, id), id, State::Trying);
        }
    }

    /// When [`Lanes::due`] will have something to do.
    pub fn next_due(&self) -> Option<Micros> {
        self.timers.first().map(|&(until, _)| until)
    }

    /// Ends the waits that are over. Returns where to rewind the sweep to, if any is.
    pub fn due(&mut self, now: Micros) -> Option<i64> {
        let mut lowest = None;
        while let Some(&(until, gate)) = self.timers.first().filter(|&&(until, _)| until <= now) {
            self.timers.remove(&(until, gate));
            if let Some(hold) = self.holds.get(&gate).copied() {
                self.set(gate, Hold { state: State::Due, ..hold });
                lowest = lower(lowest, Some(hold.id));
            }
        }
        before(lowest)
    }

    /// A pass ended. An event that was due and that it did not meet was deleted by hand, or is dead: those
    /// behind it may go. Returns where to rewind the sweep to, if any were turned away.
    pub fn swept(&mut self, reached: Reached) -> Option<i64> {
        let up_to = match reached {
            Reached::Id(id) => id,
            Reached::End => i64::MAX,
        };
        let mut lowest = None;
        while let Some((_, &gate)) = self.due.first_key_value().filter(|&(&id, _)| id <= up_to) {
            let behind = self.remove(gate).and_then(|hold| hold.behind);
            lowest = lower(lowest, behind);
        }
        before(lowest)
    }

    /// An event was delivered or is dead: those behind it may go. Returns where to rewind the sweep to, if
    /// any were turned away. To be called for every such event; of one that holds nobody up it knows nothing.
    pub fn release(&mut self, lane: Lane, id: i64) -> Option<i64> {
        let gate = Gate::of(lane, id);
        self.holds.get(&gate).filter(|hold| hold.id == id)?;
        before(self.remove(gate)?.behind)
    }

    /// The fate of all that is in flight became unknown, and the caller is to read it again: rewinds to
    /// below its lowest id. Events that were let through are awaited like those that are due.
    pub fn resend(&mut self) {
        self.recheck(|_| false);
    }

    /// Events that were let through and are not in flight after all, as the caller can tell: the pass that begins now
    /// will meet them, or they have vanished.
    pub fn recheck(&mut self, in_flight: impl Fn(i64) -> bool) {
        for (&gate, hold) in &mut self.holds {
            if hold.state == State::Trying && !in_flight(hold.id) {
                hold.state = State::Due;
                self.due.insert(hold.id, gate);
            }
        }
    }

    /// Whether so many wait that sweeping on might turn away more lanes than can be remembered: the caller
    /// stops until one is due. What is refused meanwhile must still be blocked, and is.
    pub fn full(&self) -> bool {
        self.timers.len() >= self.limit
    }

    /// How many events wait for a date.
    pub fn waiting(&self) -> usize {
        self.timers.len()
    }

    /// How many lanes are closed.
    pub fn closed(&self) -> usize {
        self.holds.len()
    }

    /// Whether no lane is closed.
    pub fn is_empty(&self) -> bool {
        self.holds.is_empty()
    }

    /// An event that was refused before keeps its lane closed until its fate is known.
    fn let_through(&mut self, gate: Gate, id: i64) {
        match gate {
            Gate::Lane(_) => self.close(gate, id, State::Trying),
            Gate::Event(_) => {
                self.remove(gate);
            }
        }
    }

    /// The lowest id is the one that holds the lane; the others are behind it.
    fn close(&mut self, gate: Gate, id: i64, state: State) {
        let mut hold = Hold { id, state, behind: None };
        if let Some(current) = self.holds.get_mut(&gate) {
            if current.id < id {
                current.turn_away(id);
                return;
            }
            if current.id > id {
                current.turn_away(current.id);
            }
            hold.behind = current.behind;
        }
        self.set(gate, hold);
    }

    fn set(&mut self, gate: Gate, hold: Hold) {
        self.remove(gate);
        match hold.state {
            State::Waiting { until } => {
                self.timers.insert((until, gate));
            }
            State::Due => {
                self.due.insert(hold.id, gate);
            }
            State::Trying => {}
        }
        self.holds.insert(gate, hold);
    }

    fn remove(&mut self, gate: Gate) -> Option<Hold> {
        let hold = self.holds.remove(&gate)?;
        match hold.state {
            State::Waiting { until } => {
                self.timers.remove(&(until, gate));
            }
            State::Due => {
                self.due.remove(&hold.id);
            }
            State::Trying => {}
        }
        Some(hold)
    }
}

#[cfg(test)]
mod tests;
