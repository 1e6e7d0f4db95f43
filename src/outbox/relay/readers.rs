//! Who reads the table in a pass, one after the other and by the same snapshot:
//!
//! 1. the reader of new rows, from the floor on, which passes over the topics that are behind;
//! 2. the look-up of events whose wait is over;
//! 3. the safety net, which goes once through the whole table now and then;
//! 4. the topics that are behind, in turns (see [`event_outbox_policy::reading::backlog`]).
//!
//! Each reads a bounded number of rows and goes on in the next pass.

use event_outbox_policy::delivery::lanes::Freed;
use event_outbox_policy::reading::backlog::{Ended, Topic};
use event_outbox_policy::reading::floor::Reached;

use super::main_loop::Relay;
use super::sweep::PendingBatch;
use super::window::Room;
use crate::failpoints;
use crate::outbox::table::rows::Events;

/// While the topics that are behind go at full speed, so much less is read of what is new: they are to pending up.
const RESTRAINT: usize = 8;

/// A pass is shared among so many turns, if so many topics wait for theirs.
const TURNS: usize = 8;

/// Who asks for a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reader {
    /// The one of new rows, or the safety net.
    New,
    /// The look-up of an event that is due.
    Due,
    /// The turn of a topic.
    Turn(Topic),
}

/// What a row means to its reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The next row, please.
    Next,
    /// There is no room for it.
    NoRoom,
    /// No more of this topic may be in flight, `for_all` its keys or for that of this event.
    Denied { for_all: bool },
    /// No more of this topic may come to wait.
    Saturated,
}

/// What a turn came to.
struct Turn {
    ended: Ended,
    /// All rows up to this id have been read.
    last_id: i64,
    /// How many rows were visited.
    rows: usize,
}

/// A pass.
pub(super) struct Pass<'a> {
    pub events: &'a Events,
    pub now: i64,
    pub room: Room,
    pub pending: &'a mut PendingBatch,
    /// Rows above this id have not been seen by the reader of new rows.
    bound: i64,
}

impl<'a> Pass<'a> {
    pub(super) fn new(events: &'a Events, now: i64, room: Room, pending: &'a mut PendingBatch) -> Self {
        Self { events, now, room, pending, bound: i64::MAX }
    }
}

impl Relay {
    /// Whether there is something to read that is not new.
    pub(super) fn has_old(&self) -> bool {
        self.backlog.has_turns() || self.lanes.has_due() || self.net.is_some()
    }

    /// All readers, one after the other. Gives how far that of new rows came.
    pub(super) fn read_all(&mut self, after: i64, mut pass: Pass<'_>) -> Reached {
        let lanes = &self.lanes;
        self.backlog.requeue(|topic, id| lanes.is_saturated(topic, id));
        let old = self.has_old();
        if old {
            pass.room.reserve();
        }
        let limit = self.settings.batch_size;
        let new = if self.restrained { limit.div_ceil(RESTRAINT) } else { limit };
        let reached = self.read_new(after, new, &mut pass);
        let found_new = pass.pending.len();
        if old || self.has_old() {
            pass.room.end_reserve();
            pass.pending.remember_ids();
            if let Reached::Id(id) = reached {
                pass.bound = id;
            }
            self.look_up_due(limit, &mut pass);
            self.mend_net(limit.div_ceil(2), &mut pass);
            let visited = self.take_turns(limit, &mut pass);
            let taken = pass.pending.len() - found_new;
            // Refused ones are no progress.
            self.restrained = self.lanes.is_empty() && found_new == 0 && taken > 0 && taken * 2 >= visited;
        } else {
            self.restrained = false;
        }
        reached
    }

    fn read_new(&mut self, after: i64, limit: usize, pass: &mut Pass<'_>) -> Reached {
        let after = failpoints::cursor(after);
        let (mut last_id, mut cut_off) = (after, false);
        let found = pass.events.read_new(after, limit, |row| {
            cut_off = self.offer(row, Reader::New, pass) == Verdict::NoRoom;
            if !cut_off {
                last_id = row.id();
            }
            !cut_off
        });
        failpoints::passed(last_id);
        if cut_off || found >= limit { Reached::Id(last_id) } else { Reached::End }
    }

    /// Events whose wait is over, each by its id.
    fn look_up_due(&mut self, limit: usize, pass: &mut Pass<'_>) {
        for (id, topic) in self.lanes.first_due(limit) {
            if id > pass.bound {
                continue;
            }
            // Earlier ones of its key may be among those: it is met behind them.
            if self.backlog.reads_before(topic, id) {
                self.lanes.leave_to_turn(id);
                continue;
            }
            let mut verdict = None;
            pass.events.read_new(id.saturating_sub(1), 1, |row| {
                if row.id() == id {
                    verdict = Some(self.offer(row, Reader::Due, pass));
                }
                false
            });
            match verdict {
                Some(Verdict::NoRoom) => {
                    // Without a key it counts as tried already.
                    self.backlog.want(topic, id);
                    return;
                }
                Some(_) => self.lanes.is_in_flight(id),
                None => {
                    let freed = self.lanes.vanished(id);
                    self.freed(freed);
                }
            }
        }
    }

    /// What bypassed the triggers.
    fn mend_net(&mut self, limit: usize, pass: &mut Pass<'_>) {
        let Some(after) = self.net.map(failpoints::cursor) else { return };
        let (mut last_id, mut stopped, mut done) = (after, false, false);
        let found = pass.events.read_new(after, limit, |row| {
            done = row.id() > pass.bound;
            stopped = !done && self.offer(row, Reader::New, pass) == Verdict::NoRoom;
            if !done && !stopped {
                last_id = row.id();
            }
            !done && !stopped
        });
        self.net = (!done && (stopped || found >= limit)).then_some(last_id);
    }

    /// The topics that are behind. Gives how many rows were visited.
    fn take_turns(&mut self, limit: usize, pass: &mut Pass<'_>) -> usize {
        let share = (limit / self.backlog.turns().clamp(1, TURNS)).max(1);
        let mut visited = 0;
        while visited < limit {
            let Some((topic, after)) = self.backlog.begin_turn() else { break };
            if self.lanes.is_saturated(topic, after.saturating_add(1)) {
                self.backlog.end_turn(Ended::Saturated(after));
                self.lanes.passed(topic, after);
                continue;
            }
            let Turn { ended, last_id, rows } = self.take_turn(topic, after, share, pass);
            self.backlog.end_turn(ended);
            self.lanes.passed(topic, last_id);
            if ended == Ended::CaughtUp {
                self.backlog.let_go(topic, self.lanes.has_closed(topic));
            }
            if matches!(ended, Ended::NoRoom(_)) {
                break;
            }
            visited += rows.max(1);
        }
        visited
    }

    fn take_turn(&mut self, topic: Topic, after: i64, share: usize, pass: &mut Pass<'_>) -> Turn {
        let (mut last_id, mut ended) = (after, None);
        let rows = pass.events.read_new(after, share, |row| {
            let before = row.id().saturating_sub(1);
            if row.id() > pass.bound {
                ended = Some(Ended::CaughtUp);
                return false;
            }
            ended = match self.offer(row, Reader::Turn(topic), pass) {
                Verdict::Next | Verdict::Denied { for_all: false } => None,
                Verdict::NoRoom => Some(Ended::NoRoom(before)),
                Verdict::Saturated => Some(Ended::Saturated(before)),
                Verdict::Denied { for_all: true } => Some(Ended::Denied),
            };
            last_id = if ended.is_none() { row.id() } else { before };
            ended.is_none()
        });
        let by_itself = if rows < share { Ended::CaughtUp } else { Ended::UsedUp(last_id) };
        let ended = ended.unwrap_or(by_itself);
        Turn { ended, last_id: if ended == Ended::CaughtUp { pass.bound } else { last_id }, rows }
    }

    /// A lane was opened: what was turned away there is to be read again.
    pub(super) fn freed(&mut self, freed: Option<Freed>) {
        let Some(Freed { topic, behind }) = freed else { return };
        match behind {
            Some(id) => self.backlog.want(topic, id),
            None => self.backlog.let_go(topic, self.lanes.has_closed(topic)),
        }
        self.reread_pending = true;
    }
}
