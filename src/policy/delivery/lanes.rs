//! The order per topic and key while an event waits for its next attempt.
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
//! A refused event closes its lane, the events of its topic and key, for itself and for higher ids; all other
//! lanes flow. When its wait is over only the event itself may pass, and those behind it follow when it is
//! delivered or dead: if they followed at once, its next refusal would come too late for them. Events of the
//! lane that were in flight when it was first refused cannot be called back.
//!
//! Rows behind a closed lane stay in the table; of them only the lowest id is remembered, so that memory
//! follows the number of lanes that are closed. Of each topic only so many may be closed that others have their share
//! ([`Lanes::is_saturated`]). The caller reads a topic's rows again from where this module says ([`Freed`]). What
//! it must keep to:
//!
//! - it reads the rows of a topic in ascending ids, and asks [`Lanes::try_admit`] about each that is not in flight, when it has
//!   room to hand it out at once;
//! - it looks up an event that is due by its id, ahead of the topic's other rows, only where no row before it remains to be
//!   read; else it [leaves](Lanes::leave_to_turn) the event to the reader of these rows, and says how far that came
//!   ([`Lanes::passed`]);
//! - it says of an event that it looks up and does not find that it has [vanished](Lanes::vanished).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use foldhash::fast::RandomState;

use block::{Block, Gate, State};

use crate::reading::backlog::Topic;

/// The identity of a topic and key, hashed by the caller. Two that collide merely wait for each other.
/// `None` stands for an event without a key: it can wait itself, but nothing waits for it.
pub type Lane = Option<u64>;

/// A topic gets at most this part of all lanes that may be closed, though no other wants any.
const MIN_SHARES: usize = 4;

/// A point in time, in microseconds of the caller's clock.
pub type Micros = i64;

/// A lane was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freed {
    /// Its topic.
    pub topic: Topic,
    /// The lowest id that was turned away: the topic is to be read again from there.
    pub behind: Option<i64>,
}

/// The lanes that are closed.
#[derive(Debug)]
pub struct Lanes {
    limit: usize,
    blocks: BTreeMap<Gate, Block>,
    /// Those of `holds` that are waiting, by time.
    timers: BTreeSet<(Micros, Gate)>,
    /// Those of `holds` that are due, by id.
    due: BTreeMap<i64, Gate>,
    /// Those of `holds` that the readers of their topics will meet.
    awaited: BTreeSet<(Topic, i64, Gate)>,
    /// The `blocks` of each topic.
    topics: HashMap<Topic, BTreeSet<(i64, Gate)>, RandomState>,
    /// Events that are refused, which is not settled yet, by lane.
    held_back: BTreeSet<(u64, i64)>,
}

impl Lanes {
    /// With no lane closed. `limit` bounds how many may be closed before each topic is allowed but one.
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

    /// Closes a lane because this event was refused, or was found waiting, until its next attempt.
    ///
    /// Of several in a lane, the lowest id decides until when; called again for that one, the new time holds.
    pub fn block(&mut self, topic: Topic, lane: Lane, id: i64, until: Micros) {
        self.settle_held_back(lane, id);
        self.close(topic, Gate::of(lane, id), id, State::Waiting { until });
    }

    /// Whether a row that was read may be handed out now. `not_before` is the row's own next attempt,
    /// which only an event that was refused has.
    pub fn try_admit(
        &mut self,
        topic: Topic,
        lane: Lane,
        id: i64,
        not_before: Option<Micros>,
        now: Micros,
    ) -> bool {
        let gate = Gate::of(lane, id);
        let hold = self.blocks.get_mut(&gate).filter(|hold| hold.id <= id);
        let refused_before = hold.is_some() || not_before.is_some();
        match (hold, not_before) {
            (_, Some(until)) if until > now => self.block(topic, lane, id, until),
            (Some(hold), _) if hold.id < id => hold.turn_away(id),
            (Some(Block { state: State::Waiting { .. }, .. }), until) => {
                // The row says that its wait is over: somebody shortened it, and `due` is to notice.
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

    /// An event that was admitted is refused without being sent, which is settled later: nothing of its lane passes
    /// until then.
    pub fn hold_back(&mut self, topic: Topic, lane: Lane, id: i64) {
        if let Some(number) = lane {
            self.held_back.insert((number, id));
            self.close(topic, Gate::Lane(number), id, State::Trying);
        }
    }

    /// An event that was let through has not been sent, or has come back. Whether it holds its lane: then it is to be met by
    /// the reader of its topic's rows, who is to read it again.
    pub fn put_off(&mut self, lane: Lane, id: i64) -> bool {
        self.settle_held_back(lane, id);
        let gate = Gate::of(lane, id);
        let hold = self.blocks.get(&gate).copied().filter(|hold| hold.id == id);
        if let Some(hold) = hold {
            self.set(gate, Block { state: State::Awaited, ..hold });
        }
        hold.is_some()
    }

    /// Whether an event of this lane could close it: it is open.
    pub fn is_open(&self, lane: Lane, id: i64) -> bool {
        !self.blocks.contains_key(&Gate::of(lane, id))
    }

    /// Whether so many of the topic's lanes are closed by events before this one that it may not be taken, if it could close
    /// another. What is refused nevertheless must still be blocked, and is. Those before can all be looked up, so that
    /// some lane will be opened.
    pub fn is_saturated(&self, topic: Topic, id: i64) -> bool {
        let Some(holds) = self.topics.get(&topic) else { return false };
        let share = if self.blocks.len() >= self.limit {
            1
        } else {
            (self.limit / self.topics.len().max(MIN_SHARES)).max(1)
        };
        let Some(others) = holds.len().checked_sub(share) else { return false };
        if others < share {
            holds.range((id, Gate::FIRST)..).take(others + 1).count() <= others
        } else {
            holds.iter().nth(share - 1).is_some_and(|&(last, _)| last < id)
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

    /// Ends the waits that are over. Whether any event is due, to be looked up.
    pub fn due(&mut self, now: Micros) -> bool {
        while let Some(&(until, gate)) = self.timers.first().filter(|&&(until, _)| until <= now) {
            self.timers.remove(&(until, gate));
            if let Some(hold) = self.blocks.get(&gate).copied() {
                self.set(gate, Block { state: State::Due, ..hold });
            }
        }
        self.has_due()
    }

    /// Ends all waits: what the rows themselves say is to be looked at again.
    pub fn end_waits(&mut self) {
        self.due(Micros::MAX);
    }

    /// Whether any event is to be looked up.
    pub fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// The first of the events to be looked up, by id, each with its topic.
    pub fn first_due(&self, most: usize) -> Vec<(i64, Topic)> {
        let topic = |gate: &Gate| self.blocks.get(gate).map_or(0, |hold| hold.topic);
        self.due.iter().take(most).map(|(&id, gate)| (id, topic(gate))).collect()
    }

    /// An event that was due was not found: it was deleted by hand, or is dead. Those behind it may go.
    pub fn vanished(&mut self, id: i64) -> Option<Freed> {
        let gate = *self.due.get(&id)?;
        self.open(gate)
    }

    /// A due event is not looked up, since rows of its topic before it remain to be read: who reads these will meet it.
    pub fn leave_to_turn(&mut self, id: i64) {
        if let Some(&gate) = self.due.get(&id)
            && let Some(hold) = self.blocks.get(&gate).copied()
        {
            self.set(gate, Block { state: State::Awaited, ..hold });
        }
    }

    /// The rows of a topic up to this id have been read. What was to be met there and was not is looked up: it has
    /// vanished, or became visible late.
    pub fn passed(&mut self, topic: Topic, last: i64) {
        let first = (topic, i64::MIN, Gate::FIRST);
        while let Some(&(_, _, gate)) =
            self.awaited.range(first..).next().filter(|(of, id, _)| *of == topic && *id <= last)
        {
            let Some(hold) = self.blocks.get(&gate).copied() else { return };
            self.set(gate, Block { state: State::Due, ..hold });
        }
    }

    /// An event that was due is in flight already.
    pub fn is_in_flight(&mut self, id: i64) {
        if let Some(&gate) = self.due.get(&id)
            && let Some(hold) = self.blocks.get(&gate).copied()
        {
            self.set(gate, Block { state: State::Trying, ..hold });
        }
    }

    /// An event was delivered or is dead: those behind it may go. To be called for every such event; of one that holds nobody
    /// up it knows nothing.
    pub fn release(&mut self, lane: Lane, id: i64) -> Option<Freed> {
        self.settle_held_back(lane, id);
        let gate = Gate::of(lane, id);
        self.blocks.get(&gate).filter(|hold| hold.id == id)?;
        self.open(gate)
    }

    /// Events that were let through and are not in flight after all, as the caller can tell: they are looked up, or have
    /// vanished.
    pub fn recheck(&mut self, in_flight: impl Fn(i64) -> bool) {
        self.held_back.retain(|(_, id)| in_flight(*id));
        for (&gate, hold) in &mut self.blocks {
            if hold.state == State::Trying && !in_flight(hold.id) {
                hold.state = State::Due;
                self.due.insert(hold.id, gate);
            }
        }
    }

    /// How many events wait for a date.
    pub fn waiting(&self) -> usize {
        self.timers.len()
    }

    /// How many lanes are closed.
    pub fn closed(&self) -> usize {
        self.blocks.len()
    }

    /// Whether no lane is closed.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// An event that was refused before keeps its lane closed until its fate is known.
    fn let_through(&mut self, topic: Topic, gate: Gate, id: i64) {
        match gate {
            Gate::Lane(_) => self.close(topic, gate, id, State::Trying),
            Gate::Event(_) => {
                self.remove(gate);
            }
        }
    }

    /// What is held back is settled, or not taken after all.
    fn settle_held_back(&mut self, lane: Lane, id: i64) {
        if let Some(number) = lane
            && !self.held_back.is_empty()
        {
            self.held_back.remove(&(number, id));
        }
    }

    /// Those behind the event that has held the gate may go; but not behind one that is held back.
    fn open(&mut self, gate: Gate) -> Option<Freed> {
        let block = self.remove(gate)?;
        if let Gate::Lane(number) = gate
            && let Some(&(_, id)) = self.held_back.range((number, i64::MIN)..=(number, i64::MAX)).next()
        {
            self.set(gate, Block { id, state: State::Trying, ..block });
        }
        Some(block.freed())
    }

    /// The lowest id is the one that holds the lane; the others are behind it.
    fn close(&mut self, topic: Topic, gate: Gate, id: i64, state: State) {
        let mut hold = Block { topic, id, state, behind: None };
        if let Some(current) = self.blocks.get_mut(&gate) {
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

    fn set(&mut self, gate: Gate, hold: Block) {
        self.remove(gate);
        match hold.state {
            State::Waiting { until } => {
                self.timers.insert((until, gate));
            }
            State::Due => {
                self.due.insert(hold.id, gate);
            }
            State::Awaited => {
                self.awaited.insert((hold.topic, hold.id, gate));
            }
            State::Trying => {}
        }
        self.topics.entry(hold.topic).or_default().insert((hold.id, gate));
        self.blocks.insert(gate, hold);
    }

    fn remove(&mut self, gate: Gate) -> Option<Block> {
        let hold = self.blocks.remove(&gate)?;
        if let Some(closed) = self.topics.get_mut(&hold.topic) {
            closed.remove(&(hold.id, gate));
            if closed.is_empty() {
                self.topics.remove(&hold.topic);
            }
        }
        match hold.state {
            State::Waiting { until } => {
                self.timers.remove(&(until, gate));
            }
            State::Due => {
                self.due.remove(&hold.id);
            }
            State::Awaited => {
                self.awaited.remove(&(hold.topic, hold.id, gate));
            }
            State::Trying => {}
        }
        Some(hold)
    }
}

mod block;
#[cfg(test)]
mod tests;
