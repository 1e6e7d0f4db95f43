//! The relay, one step at a time.

use std::collections::{BTreeMap, BTreeSet};

use event_outbox_policy::reading::floor::{Horizon, Reached};

use crate::finders::Finder;
use crate::postgres::{Postgres, Snapshot};

/// A violated guarantee.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// A pass read past a row that its own snapshot showed.
    Missed(i64),
    /// A row was handed out again although it was in flight or settled.
    HandedOutTwice(i64),
    /// The relay never came to rest, or rested beside these rows.
    Left(Vec<i64>),
}

/// A value that is read at the start of a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    Sequence,
    NextXid,
    Snapshot,
}

/// The only correct order.
pub const IN_ORDER: [Look; 3] = [Look::Sequence, Look::NextXid, Look::Snapshot];

#[derive(Debug)]
enum Step {
    Idle,
    /// How many of the values have been read.
    Looking(usize),
    HandOut {
        after: i64,
        rows: Vec<i64>,
        end: bool,
    },
}

/// The outcome of an event in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Unknown,
    Delivered,
    Refused,
}

pub struct Relay<F> {
    finder: F,
    looks: [Look; 3],
    window: usize,
    limit: usize,
    step: Step,
    last_id: i64,
    next_xid: u64,
    snapshot: Option<Snapshot>,
    in_flight: BTreeMap<i64, Fate>,
    /// Rows that were handed out since the restart and not refused.
    handed: BTreeSet<i64>,
    /// The number of passes that ended.
    pub passes: usize,
    /// The number of ids between each pass's start and its L.
    pub ids_swept: i64,
    /// The start of each pass.
    pub starts: Vec<i64>,
}

impl<F: Finder> Relay<F> {
    pub fn new(finder: F, looks: [Look; 3], window: usize, limit: usize) -> Self {
        Self {
            finder,
            looks,
            window,
            limit,
            step: Step::Idle,
            last_id: 0,
            next_xid: 0,
            snapshot: None,
            in_flight: BTreeMap::new(),
            handed: BTreeSet::new(),
            passes: 0,
            ids_swept: 0,
            starts: Vec::new(),
        }
    }

    pub fn step(&mut self, postgres: &mut Postgres) -> Result<(), Fault> {
        match std::mem::replace(&mut self.step, Step::Idle) {
            Step::Idle if self.in_flight.values().any(|&fate| fate != Fate::Unknown) => self.settle(postgres),
            Step::Idle if self.in_flight.len() >= self.window => {}
            Step::Idle => self.look(0, postgres),
            Step::Looking(done) if done < self.looks.len() => self.look(done, postgres),
            Step::Looking(_) => self.fetch(postgres),
            Step::HandOut { after, rows, end } => self.hand_out(after, &rows, end, postgres)?,
        }
        Ok(())
    }

    fn look(&mut self, done: usize, postgres: &Postgres) {
        match self.looks[done] {
            Look::Sequence => self.last_id = postgres.last_id(),
            Look::NextXid => self.next_xid = postgres.next_xid(),
            Look::Snapshot => self.snapshot = Some(postgres.snapshot()),
        }
        self.step = Step::Looking(done + 1);
    }

    fn fetch(&mut self, postgres: &Postgres) {
        let snapshot = self.snapshot.as_ref().unwrap();
        let after = self.finder.begin(Horizon {
            last_id: self.last_id,
            next_xid: self.next_xid,
            snapshot_xmax: snapshot.xmax,
            running: snapshot.running.iter().rev().copied().collect(),
        });
        self.ids_swept += (self.last_id - after).max(0);
        self.starts.push(after);
        let rows: Vec<i64> = postgres.visible(after, snapshot).take(self.limit).collect();
        let end = rows.len() < self.limit;
        self.step = Step::HandOut { after, rows, end };
    }

    fn hand_out(&mut self, after: i64, rows: &[i64], end: bool, postgres: &Postgres) -> Result<(), Fault> {
        let mut last = after;
        let mut dealt = 0;
        for &id in rows {
            if !self.in_flight.contains_key(&id) {
                if self.in_flight.len() >= self.window {
                    break;
                }
                if !self.handed.insert(id) {
                    return Err(Fault::HandedOutTwice(id));
                }
                self.in_flight.insert(id, Fate::Unknown);
            }
            last = id;
            dealt += 1;
        }
        let reached = if end && dealt == rows.len() { Reached::End } else { Reached::Id(last) };
        let up_to = if reached == Reached::End { i64::MAX } else { last };
        let snapshot = self.snapshot.as_ref().unwrap();
        let mut shown = postgres.visible(0, snapshot).take_while(|&id| id <= up_to);
        if let Some(missed) = shown.find(|id| !self.in_flight.contains_key(id)) {
            return Err(Fault::Missed(missed));
        }
        self.finder.end(reached, last);
        self.passes += 1;
        Ok(())
    }

    fn settle(&mut self, postgres: &mut Postgres) {
        let with =
            |fate| self.in_flight.iter().filter(move |(_, f)| **f == fate).map(|(&id, _)| id).collect();
        let (delivered, refused): (Vec<i64>, Vec<i64>) = (with(Fate::Delivered), with(Fate::Refused));
        postgres.delete(&delivered);
        for id in refused {
            self.handed.remove(&id);
            self.finder.rewind(id - 1);
        }
        self.in_flight.retain(|_, fate| *fate == Fate::Unknown);
    }

    /// Kafka acknowledges an event in flight.
    pub fn deliver(&mut self, pick: usize) {
        self.report(pick, Fate::Delivered);
    }

    /// Kafka refuses an event in flight.
    pub fn refuse(&mut self, pick: usize) {
        self.report(pick, Fate::Refused);
    }

    fn report(&mut self, pick: usize, fate: Fate) {
        let mut unknown: Vec<_> =
            self.in_flight.values_mut().filter(|fate| **fate == Fate::Unknown).collect();
        let count = unknown.len();
        if count > 0 {
            *unknown[pick % count] = fate;
        }
    }

    pub fn deliver_all(&mut self) {
        for fate in self.in_flight.values_mut().filter(|fate| **fate == Fate::Unknown) {
            *fate = Fate::Delivered;
        }
    }

    /// An ERROR interrupts the pass, if there is one.
    pub fn error(&mut self) {
        self.step = Step::Idle;
        self.finder.abandon();
    }

    pub fn full_sweep(&mut self) {
        self.finder.rewind(0);
    }

    /// A new relay does not know the events that the old one had in flight.
    pub fn restart(&mut self, finder: F) {
        self.finder = finder;
        self.step = Step::Idle;
        self.in_flight.clear();
        self.handed.clear();
    }

    /// Runs passes and delivers all events until a pass is complete. Then no visible row may be left.
    pub fn come_to_rest(&mut self, postgres: &mut Postgres) -> Result<(), Fault> {
        self.step = Step::Idle;
        self.finder.abandon();
        let passes = self.passes;
        for _ in 0..100_000 {
            let rests = self.passes > passes && matches!(self.step, Step::Idle) && self.in_flight.is_empty();
            if rests && !self.finder.unfinished() {
                break;
            }
            self.step(postgres)?;
            self.deliver_all();
        }
        let left: Vec<i64> = postgres.visible(0, &postgres.snapshot()).collect();
        if left.is_empty() { Ok(()) } else { Err(Fault::Left(left)) }
    }
}
