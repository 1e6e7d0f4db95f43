//! Keeps the order of each topic and key while an event waits for its next attempt.
//!
//! ```text
//!          block                  due                 try_admit, of the event
//!  (free) -------> Waiting until ------> Due (look it up) ------------------> Trying
//!    ^                ^                   |   |      ^                        ^ |  |
//!    |                |          vanished |   |      | passed                 | |  |
//!    |                |                   |   v      |                        | |  |
//!    |                |                   | Awaited by its topic's turn ------+ |  |
//!    |                |                   |   ^                                 |  |
//!    |                |                   |   +---------------------------------+  |
//!    |                |                   v        put_off: not sent, or came back |
//!    +----------------|-------------------+<---------------------------------------+
//!                     |                      release: delivered or dead            |
//!                     +------------------------------------------------------------+
//!                        block: refused again
//! ```
//!
//! A refused event closes its lane, the events of its topic and key, for itself and for higher ids. All other lanes stay
//! open. When its wait is over, only the event itself may pass. The events behind it follow when it is delivered or dead: if
//! they followed at once, its next refusal would come too late to stop them. Events of the lane that were in flight when it
//! was first refused cannot be recalled.
//!
//! Rows behind a closed lane stay in the table. Only the lowest id of them is remembered, so memory follows the number of
//! closed lanes. The number of closed lanes of each topic is limited, so that other topics get their share
//! ([`Lanes::is_saturated`]). The caller reads a topic's rows again from the id that this module gives ([`Freed`]). The
//! caller's obligations:
//!
//! - It reads the rows of a topic in ascending ids, and calls [`Lanes::try_admit`] for each that is not in flight, when it has
//!   room to hand it out at once.
//! - It looks up a due event by its id, ahead of the topic's other rows, only if no row before it remains to be read.
//!   Otherwise it [leaves](Lanes::await_turn) the event to the reader of these rows, and reports how far that reader came
//!   ([`Lanes::passed`]).
//! - If it looks up an event and does not find it, it reports that the event has [vanished](Lanes::vanished).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use foldhash::fast::RandomState;

use block::{Block, Gate, State};

use crate::reading::backlog::Topic;

/// A topic and key, hashed by the caller. If two collide, the only effect is that they wait for each other.
/// `None` stands for an event without a key: it can wait itself, but no event waits for it.
pub type Lane = Option<u64>;

/// A topic may use at most one part in this many of the limit of closed lanes, even if no other topic needs any.
const MIN_SHARES: usize = 4;

/// A point in time, in microseconds of the caller's clock.
pub type Micros = i64;

/// A lane that was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freed {
    /// Its topic.
    pub topic: Topic,
    /// The lowest id that was turned away. The topic must be read again from there.
    pub behind: Option<i64>,
}

/// The closed lanes.
#[derive(Debug)]
pub struct Lanes {
    limit: usize,
    blocks: BTreeMap<Gate, Block>,
    /// The blocks whose event waits, by time.
    timers: BTreeSet<(Micros, Gate)>,
    /// The blocks whose event is due, by its id.
    due: BTreeMap<i64, Gate>,
    /// The blocks whose event the reader of its topic will read.
    awaited: BTreeSet<(Topic, i64, Gate)>,
    /// The blocks of each topic.
    topics: HashMap<Topic, BTreeSet<(i64, Gate)>, RandomState>,
    /// The events whose refusal is not settled yet, by lane.
    held_back: BTreeSet<(u64, i64)>,
}

impl Lanes {
    /// Starts with no lane closed. When `limit` lanes are closed, each topic may have only one.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            blocks: BTreeMap::new(),
            timers: BTreeSet::new(),
            due: BTreeMap::new(),
            awaited: BTreeSet::new(),
            topics: HashMap::default(),
            held_back: BTreeSet::new(),
        }
    }

    /// Closes a lane until the next attempt of this event, which was refused or was found waiting.
    ///
    /// If several events close a lane, the one with the lowest id sets the time. Calling this again for it replaces the time.
    pub fn block(&mut self, topic: Topic, lane: Lane, id: i64, until: Micros) {
        self.settle_held_back(lane, id);
        self.close(topic, Gate::of(lane, id), id, State::Waiting { until });
    }

    /// Returns whether a row that was read may be handed out now. `not_before` is the time of the row's next attempt,
    /// which only refused events have.
    pub fn try_admit(
        &mut self,
        topic: Topic,
        lane: Lane,
        id: i64,
        not_before: Option<Micros>,
        now: Micros,
    ) -> bool {
        let gate = Gate::of(lane, id);
        let block = self.blocks.get_mut(&gate).filter(|block| block.id <= id);
        let refused_before = block.is_some() || not_before.is_some();
        match (block, not_before) {
            (_, Some(until)) if until > now => self.block(topic, lane, id, until),
            (Some(block), _) if block.id < id => block.turn_away(id),
            (Some(Block { state: State::Waiting { .. }, .. }), until) => {
                // According to the row its wait is over, because it was shortened by hand. Make `due` notice this.
                if let Some(until) = until {
                    self.block(topic, lane, id, until);
                }
            }
            _ => {
                if refused_before {
                    self.let_through(topic, gate, id);
                }
                return true;
            }
        }
        false
    }

    /// An admitted event was refused without being sent. Until this is settled, no other event of its lane passes.
    pub fn hold_back(&mut self, topic: Topic, lane: Lane, id: i64) {
        if let Some(number) = lane {
            self.held_back.insert((number, id));
            self.close(topic, Gate::Lane(number), id, State::Trying);
        }
    }

    /// An event that was let through was not sent, or has come back. Returns whether it keeps its lane closed: then the reader
    /// of its topic's rows must read it again.
    pub fn put_off(&mut self, lane: Lane, id: i64) -> bool {
        self.settle_held_back(lane, id);
        let gate = Gate::of(lane, id);
        let block = self.blocks.get(&gate).copied().filter(|block| block.id == id);
        if let Some(block) = block {
            self.set(gate, Block { state: State::Awaited, ..block });
        }
        block.is_some()
    }

    /// Whether the lane is open, so that this event could close it.
    pub fn is_open(&self, lane: Lane, id: i64) -> bool {
        !self.blocks.contains_key(&Gate::of(lane, id))
    }

    /// Whether events before this one have closed so many of the topic's lanes that it may not be taken if it could close
    /// another. An event that is refused nevertheless still closes its lane. All the events before it can be looked up, so
    /// some lane will be opened.
    pub fn is_saturated(&self, topic: Topic, id: i64) -> bool {
        let Some(blocks) = self.topics.get(&topic) else { return false };
        let share = if self.blocks.len() >= self.limit {
            1
        } else {
            (self.limit / self.topics.len().max(MIN_SHARES)).max(1)
        };
        let Some(others) = blocks.len().checked_sub(share) else { return false };
        if others < share {
            blocks.range((id, Gate::FIRST)..).take(others + 1).count() <= others
        } else {
            blocks.iter().nth(share - 1).is_some_and(|&(last, _)| last < id)
        }
    }

    /// Whether a lane of this topic is closed.
    pub fn has_closed(&self, topic: Topic) -> bool {
        self.topics.contains_key(&topic)
    }

    /// When [`Lanes::due`] will have something to do.
    pub fn next_due(&self) -> Option<Micros> {
        self.timers.first().map(|&(until, _)| until)
    }

    /// Ends the waits that are over. Returns whether any event is due.
    pub fn due(&mut self, now: Micros) -> bool {
        while let Some(&(until, gate)) = self.timers.first().filter(|&&(until, _)| until <= now) {
            self.timers.remove(&(until, gate));
            if let Some(block) = self.blocks.get(&gate).copied() {
                self.set(gate, Block { state: State::Due, ..block });
            }
        }
        self.has_due()
    }

    /// Ends all waits, so that the rows' own retry times are read again.
    pub fn end_waits(&mut self) {
        self.due(Micros::MAX);
    }

    /// Whether any event must be looked up.
    pub fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// The first `most` events to look up, by id, each with its topic.
    pub fn first_due(&self, most: usize) -> Vec<(i64, Topic)> {
        let topic = |gate: &Gate| self.blocks.get(gate).map_or(0, |block| block.topic);
        self.due.iter().take(most).map(|(&id, gate)| (id, topic(gate))).collect()
    }

    /// A due event was not found: it was deleted by hand, or is dead. The events behind it may pass.
    pub fn vanished(&mut self, id: i64) -> Option<Freed> {
        let gate = *self.due.get(&id)?;
        self.open(gate)
    }

    /// A due event is not looked up, because rows of its topic before it remain to be read. The reader of these will read it.
    pub fn await_turn(&mut self, id: i64) {
        if let Some(&gate) = self.due.get(&id)
            && let Some(block) = self.blocks.get(&gate).copied()
        {
            self.set(gate, Block { state: State::Awaited, ..block });
        }
    }

    /// The rows of a topic up to this id have been read. Awaited events up to it that were not read must be looked up: they
    /// have vanished, or became visible late.
    pub fn passed(&mut self, topic: Topic, last: i64) {
        let first = (topic, i64::MIN, Gate::FIRST);
        while let Some(&(_, _, gate)) =
            self.awaited.range(first..).next().filter(|(of, id, _)| *of == topic && *id <= last)
        {
            let Some(block) = self.blocks.get(&gate).copied() else { return };
            self.set(gate, Block { state: State::Due, ..block });
        }
    }

    /// The first event of the topic that the reader of its rows will read.
    #[must_use]
    pub fn first_awaited(&self, topic: Topic) -> Option<i64> {
        let first = (topic, i64::MIN, Gate::FIRST);
        self.awaited.range(first..).next().filter(|(of, ..)| *of == topic).map(|(_, id, _)| *id)
    }

    /// A due event is already in flight.
    pub fn is_in_flight(&mut self, id: i64) {
        if let Some(&gate) = self.due.get(&id)
            && let Some(block) = self.blocks.get(&gate).copied()
        {
            self.set(gate, Block { state: State::Trying, ..block });
        }
    }

    /// An event was delivered or is dead: the events behind it may pass. Call it for every such event; it has no effect for an
    /// event that does not close its lane.
    pub fn release(&mut self, lane: Lane, id: i64) -> Option<Freed> {
        self.settle_held_back(lane, id);
        let gate = Gate::of(lane, id);
        self.blocks.get(&gate).filter(|block| block.id == id)?;
        self.open(gate)
    }

    /// Makes events due that were let through but are not in flight according to the caller. They will be looked up.
    pub fn recheck(&mut self, in_flight: impl Fn(i64) -> bool) {
        self.held_back.retain(|(_, id)| in_flight(*id));
        for (&gate, block) in &mut self.blocks {
            if block.state == State::Trying && !in_flight(block.id) {
                block.state = State::Due;
                self.due.insert(block.id, gate);
            }
        }
    }

    /// The number of events that wait for a time.
    pub fn waiting(&self) -> usize {
        self.timers.len()
    }

    /// The number of closed lanes.
    pub fn closed(&self) -> usize {
        self.blocks.len()
    }

    /// Whether no lane is closed.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// An event that was refused before keeps its lane closed until its outcome is known.
    fn let_through(&mut self, topic: Topic, gate: Gate, id: i64) {
        match gate {
            Gate::Lane(_) => self.close(topic, gate, id, State::Trying),
            Gate::Event(_) => {
                self.remove(gate);
            }
        }
    }

    /// An event that is held back was settled, or was not taken after all.
    fn settle_held_back(&mut self, lane: Lane, id: i64) {
        if let Some(number) = lane
            && !self.held_back.is_empty()
        {
            self.held_back.remove(&(number, id));
        }
    }

    /// Opens the gate for the events behind its own. An event that is held back closes it again.
    fn open(&mut self, gate: Gate) -> Option<Freed> {
        let block = self.remove(gate)?;
        if let Gate::Lane(number) = gate
            && let Some(&(_, id)) = self.held_back.range((number, i64::MIN)..=(number, i64::MAX)).next()
        {
            self.set(gate, Block { id, state: State::Trying, ..block });
        }
        Some(block.freed())
    }

    /// Closes the gate. The event with the lowest id is the one that closes it; the others are behind it.
    fn close(&mut self, topic: Topic, gate: Gate, id: i64, state: State) {
        let mut block = Block { topic, id, state, behind: None };
        if let Some(current) = self.blocks.get_mut(&gate) {
            if current.id < id {
                current.turn_away(id);
                return;
            }
            if current.id > id {
                current.turn_away(current.id);
            }
            block.behind = current.behind;
        }
        self.set(gate, block);
    }

    fn set(&mut self, gate: Gate, block: Block) {
        self.remove(gate);
        match block.state {
            State::Waiting { until } => {
                self.timers.insert((until, gate));
            }
            State::Due => {
                self.due.insert(block.id, gate);
            }
            State::Awaited => {
                self.awaited.insert((block.topic, block.id, gate));
            }
            State::Trying => {}
        }
        self.topics.entry(block.topic).or_default().insert((block.id, gate));
        self.blocks.insert(gate, block);
    }

    fn remove(&mut self, gate: Gate) -> Option<Block> {
        let block = self.blocks.remove(&gate)?;
        if let Some(closed) = self.topics.get_mut(&block.topic) {
            closed.remove(&(block.id, gate));
            if closed.is_empty() {
                self.topics.remove(&block.topic);
            }
        }
        match block.state {
            State::Waiting { until } => {
                self.timers.remove(&(until, gate));
            }
            State::Due => {
                self.due.remove(&block.id);
            }
            State::Awaited => {
                self.awaited.remove(&(block.topic, block.id, gate));
            }
            State::Trying => {}
        }
        Some(block)
    }
}

mod block;
#[cfg(test)]
mod tests;
