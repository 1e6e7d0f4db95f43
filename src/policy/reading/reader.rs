//! Decides what a pass reads. Four readers read the table one after the other, with the same snapshot:
//!
//! 1. the reader of new rows, which starts at the floor and skips the topics that are behind;
//! 2. the lookup of events whose wait is over;
//! 3. the safety net, which reads the whole table once from time to time;
//! 4. the turns of the topics that are behind (see [`backlog`](super::backlog)).
//!
//! Each reads a bounded number of rows and continues in the next pass.

use super::backlog::{Ended, Topic};
use super::floor::{Floor, Horizon, Reached};
use super::reread::Reread;
use crate::delivery::in_flight::{By, InFlight, Verdict};
use crate::delivery::lanes::Micros;
use crate::delivery::window::{Room, Taken};

/// While the topics that are behind make good progress, only this part of the usual number of new rows is read, so that they
/// catch up.
const RESTRAINT: usize = 8;

/// The number of turns that share a pass, if that many topics wait for theirs.
const TURNS: usize = 8;

/// A range of rows to read in ascending ids.
#[derive(Debug, Clone, Copy)]
pub struct Range {
    /// It starts after this id.
    pub after: i64,
    /// It ends with this id.
    pub bound: i64,
    /// It has at most this many rows.
    pub limit: usize,
}

/// The result of reading a [`Range`].
#[derive(Debug, Clone, Copy)]
pub struct Visited {
    /// The number of rows that were read.
    pub rows: usize,
    /// The last row that was processed; `after` if there is none.
    pub last_id: i64,
    /// The row at which the reader stopped, and why.
    pub ended: Option<(i64, Verdict)>,
    /// Whether there are no more rows up to the bound.
    pub is_all: bool,
}

impl Visited {
    /// The result before the first row.
    #[must_use]
    pub fn new(range: Range) -> Self {
        Self { rows: 0, last_id: range.after, ended: None, is_all: false }
    }

    /// Records the verdict on the next row. Returns whether the reader continues.
    pub fn goes_on(&mut self, by: By, id: i64, verdict: Verdict) -> bool {
        let ends = match verdict {
            Verdict::Next | Verdict::Denied { for_all: false } => false,
            Verdict::NoRoom => true,
            Verdict::Denied { for_all: true } | Verdict::Saturated => matches!(by, By::Turn(_)),
        };
        if ends {
            self.ended = Some((id, verdict));
        } else {
            self.last_id = id;
        }
        !ends
    }
}

/// A pass.
#[derive(Debug)]
pub struct Pass<'a, R> {
    /// The present time.
    pub now: Micros,
    /// The room that is left.
    pub room: Room,
    /// The events that were taken.
    pub taken: &'a mut Taken<R>,
}

/// The table, read with the snapshot of a pass.
pub trait Table<R> {
    /// Reads rows, and takes those whose events may be sent, until one [stops](Visited::goes_on) the reader.
    fn read(&mut self, in_flight: &mut InFlight<R>, pass: &mut Pass<'_, R>, by: By, range: Range) -> Visited;

    /// Reads the row with this id. Returns `None` if there is none.
    fn look_up(&mut self, in_flight: &mut InFlight<R>, pass: &mut Pass<'_, R>, id: i64) -> Option<Verdict>;
}

/// The state of the readers.
#[derive(Debug)]
pub struct Reader {
    floor: Floor,
    /// How far the safety net has come, while it reads the table.
    net: Option<i64>,
    /// Rows may have become visible since the last pass began.
    may_have_new_rows: bool,
    /// The topics that are behind are catching up.
    restrained: bool,
}

impl Default for Reader {
    fn default() -> Self {
        Self { floor: Floor::new(), net: None, may_have_new_rows: true, restrained: false }
    }
}

impl Reader {
    /// There may be new rows.
    pub fn note_new_rows(&mut self) {
        self.may_have_new_rows = true;
    }

    /// Rows must be read again.
    pub fn reread(&mut self, what: Reread) {
        match what {
            Reread::Nothing => return,
            Reread::Turns => {}
            Reread::From(id) => self.floor.rewind(id.saturating_sub(1)),
        }
        self.may_have_new_rows = true;
    }

    /// Starts the safety net, which reads the whole table once and finds rows that bypassed the triggers.
    pub fn sweep_all(&mut self) {
        self.net = Some(0);
    }

    /// The sequence of the ids was replaced, so all knowledge of ids is void.
    pub fn reset(&mut self) {
        self.floor = Floor::new();
    }

    /// Whether there may be rows to read.
    #[must_use]
    pub fn has_reason<R>(&self, in_flight: &InFlight<R>) -> bool {
        self.may_have_new_rows || self.is_unfinished(in_flight)
    }

    /// Whether the last pass left rows to read.
    #[must_use]
    pub fn is_unfinished<R>(&self, in_flight: &InFlight<R>) -> bool {
        self.floor.unfinished() || self.has_old(in_flight)
    }

    /// Whether there are rows to read that are not new.
    fn has_old<R>(&self, in_flight: &InFlight<R>) -> bool {
        in_flight.backlog().has_turns() || in_flight.lanes().has_due() || self.net.is_some()
    }

    /// Begins a pass, which will read all rows that were announced before.
    pub fn begin(&mut self) {
        self.may_have_new_rows = false;
    }

    /// The pass failed, so it does not count. The caller must withdraw the events that it has taken.
    pub fn abandon<R>(&mut self, in_flight: &mut InFlight<R>) {
        self.floor.abandon();
        in_flight.waiting().1.abandon();
    }

    /// Ends the pass, which has read this far.
    pub fn end(&mut self, reached: Reached) {
        self.floor.end(reached);
    }

    /// Runs all readers one after the other, each for up to `limit` rows. Returns how far the reader of new rows came.
    pub fn read<R>(
        &mut self,
        seen: Horizon,
        limit: usize,
        in_flight: &mut InFlight<R>,
        pass: &mut Pass<'_, R>,
        table: &mut impl Table<R>,
    ) -> Reached {
        let after = self.floor.begin(seen).after;
        let (lanes, backlog) = in_flight.waiting();
        backlog.requeue(|topic, id| lanes.is_saturated(topic, id));
        let old = self.has_old(in_flight);
        if old {
            pass.room.reserve();
        }
        let new = if self.restrained { limit.div_ceil(RESTRAINT) } else { limit };
        let range = Range { after, bound: i64::MAX, limit: new };
        let found = table.read(in_flight, pass, By::New, range);
        let reached = if found.is_all { Reached::End } else { Reached::Id(found.last_id) };
        let found_new = pass.taken.events().len();
        if !(old || self.has_old(in_flight)) {
            self.restrained = false;
            return reached;
        }
        pass.room.end_reserve();
        pass.taken.remember_ids();
        // The reader of new rows has seen no row above this id.
        let bound = if found.is_all { i64::MAX } else { found.last_id };
        self.look_up_due(Range { after: 0, bound, limit }, in_flight, pass, table);
        self.read_net(Range { after: 0, bound, limit: limit.div_ceil(2) }, in_flight, pass, table);
        let visited = self.take_turns(Range { after: 0, bound, limit }, in_flight, pass, table);
        let taken = pass.taken.events().len() - found_new;
        // Events that are refused again are not progress.
        self.restrained = in_flight.lanes().is_empty() && found_new == 0 && taken > 0 && taken * 2 >= visited;
        reached
    }

    /// Looks up the events whose wait is over, each by its id.
    fn look_up_due<R>(
        &mut self,
        Range { bound, limit, .. }: Range,
        in_flight: &mut InFlight<R>,
        pass: &mut Pass<'_, R>,
        table: &mut impl Table<R>,
    ) {
        for (id, topic) in in_flight.lanes().first_due(limit) {
            if id > bound {
                continue;
            }
            // Earlier events of its key may be among the rows before it, so the turn must read it after them.
            if in_flight.backlog().reads_before(topic, id) {
                in_flight.waiting().0.await_turn(id);
                continue;
            }
            match table.look_up(in_flight, pass, id) {
                Some(Verdict::NoRoom) => {
                    // An event without a key already counts as tried, so its topic's turn must read it again.
                    in_flight.waiting().1.want(topic, id);
                    return;
                }
                Some(_) => in_flight.waiting().0.is_in_flight(id),
                None => {
                    let freed = in_flight.waiting().0.vanished(id);
                    self.reread(in_flight.freed(freed));
                }
            }
        }
    }

    /// Continues the safety net.
    fn read_net<R>(
        &mut self,
        range: Range,
        in_flight: &mut InFlight<R>,
        pass: &mut Pass<'_, R>,
        table: &mut impl Table<R>,
    ) {
        let Some(after) = self.net else { return };
        let found = table.read(in_flight, pass, By::New, Range { after, ..range });
        self.net = (!found.is_all).then_some(found.last_id);
    }

    /// Gives turns to the topics that are behind. Returns how many rows were read.
    fn take_turns<R>(
        &mut self,
        range: Range,
        in_flight: &mut InFlight<R>,
        pass: &mut Pass<'_, R>,
        table: &mut impl Table<R>,
    ) -> usize {
        let share = (range.limit / in_flight.backlog().turns().clamp(1, TURNS)).max(1);
        let mut visited = 0;
        while visited < range.limit {
            let (lanes, backlog) = in_flight.waiting();
            let Some((topic, after)) = backlog.begin_turn() else { break };
            if lanes.is_saturated(topic, after.saturating_add(1)) {
                backlog.end_turn(Ended::Saturated(after));
                lanes.passed(topic, after);
                continue;
            }
            let range = Range { after, limit: share, ..range };
            let found = table.read(in_flight, pass, By::Turn(topic), range);
            let ended = end_turn(topic, range, found, in_flight);
            if matches!(ended, Ended::NoRoom(_)) {
                break;
            }
            visited += found.rows.max(1);
        }
        visited
    }
}

fn end_turn<R>(topic: Topic, range: Range, found: Visited, in_flight: &mut InFlight<R>) -> Ended {
    let (ended, last_id) = match found.ended.map(|(id, verdict)| (id.saturating_sub(1), verdict)) {
        Some((before, Verdict::Saturated)) => (Ended::Saturated(before), before),
        Some((before, Verdict::Denied { .. })) => (Ended::Denied, before),
        Some((before, Verdict::NoRoom | Verdict::Next)) => (Ended::NoRoom(before), before),
        None if found.is_all => (Ended::CaughtUp, range.bound),
        None => (Ended::UsedUp(found.last_id), found.last_id),
    };
    let (lanes, backlog) = in_flight.waiting();
    backlog.end_turn(ended);
    lanes.passed(topic, last_id);
    if ended == Ended::CaughtUp {
        // If its row was deleted, nobody else notices that the event is gone.
        if let Some(id) = lanes.first_awaited(topic) {
            backlog.want(topic, id);
        }
        backlog.remove_if_caught_up(topic, lanes.has_closed(topic));
    }
    ended
}
