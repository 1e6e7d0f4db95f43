//! A sweep of the store, one step at a time.

use std::collections::BTreeSet;

use event_outbox_policy::store::cursor::{Action, Cursor};

use crate::postgres::Postgres;

/// A violated guarantee.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// An event was taken that was taken before.
    Twice(i64),
    /// At rest these were not taken.
    Missed(Vec<i64>),
    /// At rest there are undecided positions.
    Undecided,
}

/// What is wrong with the writers or the sweeper, if anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    AsItIs,
    LockAfterTheFirstPosition,
    UnlockBeforeTheCommit,
    PreparedDoNotCount,
    /// What is stored is only how far the sweep came.
    ForgetsUndecided,
    /// A sweep that is cut off drops what it did not look for.
    DropsBeforeItLooks,
}

/// A value that is read at the start of a sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    Sequence,
    Locks,
    Snapshot,
}

/// The only correct order.
pub const IN_ORDER: [Look; 3] = [Look::Sequence, Look::Locks, Look::Snapshot];

#[derive(Debug)]
pub struct Sweeper {
    limit: usize,
    variant: Variant,
    looks: [Look; 3],
    /// How many of the values were read.
    looked: usize,
    last: i64,
    lowest_lock: Option<i64>,
    snapshot: BTreeSet<usize>,
    /// What is stored.
    stored: Cursor,
    taken: BTreeSet<i64>,
}

impl Sweeper {
    pub fn new(limit: usize, variant: Variant, looks: [Look; 3]) -> Self {
        Self {
            limit,
            variant,
            looks,
            looked: 0,
            last: 0,
            lowest_lock: None,
            snapshot: BTreeSet::new(),
            stored: Cursor::default(),
            taken: BTreeSet::new(),
        }
    }

    pub fn step(&mut self, postgres: &Postgres) -> Result<(), Fault> {
        if self.looked == self.looks.len() {
            self.looked = 0;
            return self.sweep(postgres);
        }
        match self.looks[self.looked] {
            Look::Sequence => self.last = postgres.last(),
            Look::Locks => self.lowest_lock = postgres.lowest_lock(),
            Look::Snapshot => self.snapshot = postgres.snapshot(),
        }
        self.looked += 1;
        Ok(())
    }

    fn sweep(&mut self, postgres: &Postgres) -> Result<(), Fault> {
        let visible = postgres.visible(&self.snapshot);
        let stable = self.lowest_lock.map_or(self.last, |lock| lock.min(self.last));
        let mut sweep = self.stored.begin(stable);
        let mut taken = Vec::new();
        let limit = self.limit;
        let all_late: Vec<i64> = visible
            .iter()
            .filter(|(at, wanted)| {
                *wanted && sweep.late().iter().any(|(from, to)| (*from..=*to).contains(at))
            })
            .map(|(at, _)| *at)
            .collect();
        for position in all_late.iter().take(limit) {
            sweep.take_late(*position);
            taken.push(*position);
        }
        if all_late.len() <= limit || self.variant == Variant::DropsBeforeItLooks {
            sweep.end_late();
        }
        if all_late.len() <= limit {
            self.go_on(&visible, &mut sweep, &mut taken);
        }
        for position in taken {
            if !self.taken.insert(position) {
                return Err(Fault::Twice(position));
            }
        }
        self.stored = sweep.end();
        if self.variant == Variant::ForgetsUndecided {
            self.stored = Cursor::new(self.stored.upto(), Vec::new());
        }
        Ok(())
    }

    fn go_on(
        &self,
        visible: &[(i64, bool)],
        sweep: &mut event_outbox_policy::store::cursor::Sweep,
        taken: &mut Vec<i64>,
    ) {
        let room = |taken: &Vec<i64>| self.limit.saturating_sub(taken.len());
        if let Some((after, upto)) = sweep.decided() {
            let wanted = visible.iter().filter(|(at, wanted)| *wanted && *at > after && *at <= upto);
            let all: Vec<i64> = wanted.map(|(at, _)| *at).collect();
            let room = room(taken);
            for position in all.iter().take(room) {
                sweep.take_decided(*position);
                taken.push(*position);
            }
            if all.len() > room {
                return;
            }
            sweep.end_decided();
        }
        let after = sweep.open();
        for (position, wanted) in visible.iter().filter(|(at, _)| *at > after) {
            if room(taken) == 0 {
                return;
            }
            match sweep.consider_open(*position, *wanted) {
                Action::Take => taken.push(*position),
                Action::Skip => {}
                Action::Stop => return,
            }
        }
    }

    /// The sweep fails, if there is one.
    pub fn fail(&mut self) {
        self.looked = 0;
    }

    /// Another worker goes on with what is stored.
    pub fn restart(&mut self) {
        self.looked = 0;
        self.stored = Cursor::new(self.stored.upto(), self.stored.undecided().to_vec());
    }

    /// Sweeps until nothing changes. Then every wanted event was taken.
    pub fn come_to_rest(&mut self, postgres: &Postgres) -> Result<(), Fault> {
        self.looked = 0;
        let wanted: Vec<i64> = postgres
            .visible(&postgres.snapshot())
            .into_iter()
            .filter(|(_, wanted)| *wanted)
            .map(|(position, _)| position)
            .collect();
        for _ in 0..4 * (wanted.len() + 2) {
            for _ in 0..=self.looks.len() {
                self.step(postgres)?;
            }
        }
        let missed: Vec<i64> = wanted.into_iter().filter(|position| !self.taken.contains(position)).collect();
        match missed.is_empty() {
            false => Err(Fault::Missed(missed)),
            true if !self.stored.undecided().is_empty() => Err(Fault::Undecided),
            true => Ok(()),
        }
    }
}
