//! The sessions of the small world: locks, snapshots, transactions.

use std::rc::Rc;

use crate::database::{Change, State, Transaction};
use crate::variant::Variant;
use crate::world::{Tested, World};
use proptest::prelude::*;

#[derive(Debug, Default)]
pub struct Session {
    transaction: Option<Transaction>,
    /// The snapshot of the statement that is about to wait for a lock.
    pub statement: Option<Rc<State>>,
}

/// What a session does with an event whose handler fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    Abort,
    RollBackToSavepoint,
    GiveBack,
}

impl Session {
    /// The transaction, which begins now if there is none.
    pub fn transaction(&mut self) -> &mut Transaction {
        self.transaction.get_or_insert_default()
    }

    pub fn open(&self) -> Option<&Transaction> {
        self.transaction.as_ref()
    }

    pub fn begin(&mut self, snapshot: Option<Rc<State>>) {
        if self.transaction.is_none() {
            self.transaction = Some(Transaction { snapshot, ..Transaction::default() });
        }
    }

    fn end(&mut self) -> Transaction {
        self.statement = None;
        self.transaction.take().unwrap_or_default()
    }
}

impl World {
    fn others(&self, but: Option<usize>) -> impl Iterator<Item = &Transaction> {
        let others = self.sessions.iter().enumerate().filter(move |(session, _)| Some(*session) != but);
        others.filter_map(|(_, session)| session.open())
    }

    /// Whether a session other than this one holds the lock of a lane.
    pub fn is_locked(&self, lane: u16, but: Option<usize>) -> bool {
        self.others(but).any(|other| other.locks.iter().any(|(held, _)| *held == lane))
    }

    /// Whether a session other than this one has inserted a state of a lane, and goes on. The unique key makes others wait.
    pub fn is_being_changed(&self, lane: u16, but: Option<usize>) -> bool {
        let changes = self.others(but).flat_map(|other| &other.changes);
        self.variant.has_fence()
            && changes.into_iter().any(|change| matches!(change, Change::Lane(other, _) if *other == lane))
    }

    /// Takes the lock of a lane, if nobody else has it.
    pub fn lock(&mut self, session: usize, lane: u16) -> bool {
        if !self.variant.has_lock() {
            return true;
        }
        let is_free = !self.is_locked(lane, Some(session));
        if is_free {
            let transaction = self.sessions[session].transaction();
            let in_savepoint = transaction.savepoint.is_some();
            transaction.locks.push((lane, in_savepoint));
        }
        is_free
    }

    /// Releases a lock that was taken once more than it is needed.
    pub fn unlock(&mut self, session: usize, lane: u16) {
        let locks = &mut self.sessions[session].transaction().locks;
        if let Some(at) = locks.iter().rposition(|(held, _)| *held == lane) {
            locks.remove(at);
        }
    }

    /// What a statement of the session sees.
    pub fn view(&self, session: usize) -> State {
        let statement = self.sessions[session].statement.as_ref();
        let base = statement.filter(|_| self.variant.reads_by_statement()).unwrap_or(&self.latest);
        base.with(self.sessions[session].open().map_or(&[], |transaction| &transaction.changes))
    }

    /// Whether the transaction keeps to a snapshot that does not see this state of a lane.
    pub fn is_unseen(&self, session: usize, lane: u16, seq: i64) -> bool {
        self.sessions[session].open().is_some_and(|transaction| {
            let own = |snapshot: &Rc<State>| snapshot.with(&transaction.changes).lane(lane).seq;
            transaction.snapshot.as_ref().is_some_and(|snapshot| own(snapshot) != seq)
        })
    }

    /// Makes changes in the session's transaction. Returns whether no error was raised.
    pub fn write(&mut self, session: usize, changes: Vec<Change>) -> Tested<bool> {
        let own = &self.sessions[session].transaction().changes.clone();
        let newest = self.latest.with(own);
        let has_seq =
            |lane: u16, seq: i64| newest.lane(lane).seq >= seq || self.is_being_changed(lane, Some(session));
        let is_taken = |position: i64| {
            let changes = self.others(Some(session)).flat_map(|other| &other.changes);
            changes.into_iter().any(|change| matches!(change, Change::Gone(other) if *other == position))
                || !newest.waiting.contains_key(&position)
        };
        let raises = changes.iter().any(|change| match change {
            Change::Lane(lane, state) => self.variant.has_fence() && has_seq(*lane, state.seq),
            Change::Gone(position) => is_taken(*position),
            Change::Wait(..) | Change::Dead(_) | Change::Handled(_) => false,
        });
        if raises {
            return Ok(false);
        }
        if self.variant == Variant::CursorBeforeWork {
            self.commit(&changes)?;
        } else {
            self.sessions[session].transaction().changes.extend(changes);
        }
        Ok(true)
    }

    /// `receive()` has raised an error, through no fault of the events.
    pub fn raised(&mut self, session: usize) -> Tested {
        let keeps_snapshot = self.sessions[session].transaction().snapshot.is_some();
        prop_assert!(
            keeps_snapshot || !self.variant.has_lock(),
            "receive() has raised an error in a transaction that is READ COMMITTED"
        );
        self.roll_back(session, false);
        Ok(())
    }

    /// Rolls the transaction back.
    pub fn roll_back(&mut self, session: usize, is_noted: bool) {
        let lost = self.sessions[session].end().lose_all(self.variant == Variant::BlamesEachLane);
        self.leave_notes(lost, is_noted);
    }

    pub fn set_savepoint(&mut self, session: usize) {
        let transaction = self.sessions[session].transaction();
        if transaction.savepoint.is_none() {
            transaction.savepoint = Some(transaction.changes.len());
        }
    }

    pub fn release_savepoint(&mut self, session: usize) {
        let transaction = self.sessions[session].transaction();
        transaction.savepoint = None;
        transaction.locks.iter_mut().for_each(|(_, in_savepoint)| *in_savepoint = false);
        transaction.keep_part();
    }

    /// Rolls back to the savepoint. Returns whether there was one.
    pub fn roll_back_to_savepoint(&mut self, session: usize) -> bool {
        let for_each_lane = self.variant == Variant::BlamesEachLane;
        let transaction = self.sessions[session].transaction();
        let Some(changes) = transaction.savepoint.take() else { return false };
        transaction.changes.truncate(changes);
        transaction.locks.retain(|(_, in_savepoint)| !in_savepoint);
        let lost = transaction.lose_part(for_each_lane);
        self.leave_notes(lost, true);
        true
    }

    /// Handles what was received. Returns whether all of it is handled or given back.
    pub fn work(&mut self, session: usize, reaction: Reaction) -> Tested<bool> {
        while let Some(&position) = self.sessions[session].transaction().left().first() {
            if !self.handler_fails(position) {
                self.sessions[session].transaction().changes.push(Change::Handled(position));
                continue;
            }
            match reaction {
                Reaction::GiveBack => self.give_back(session, position)?,
                Reaction::RollBackToSavepoint if self.roll_back_to_savepoint(session) => return Ok(false),
                Reaction::RollBackToSavepoint | Reaction::Abort => {
                    self.roll_back(session, true);
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Calls the handler of an event.
    pub fn handler_fails(&mut self, position: i64) -> bool {
        let failures = self.judge.failures.entry(position).or_default();
        let fails = *failures < self.log[position as usize - 1].failures;
        *failures += u32::from(fails);
        fails
    }

    /// The session handles what is left, and commits.
    pub fn commit_session(&mut self, session: usize) -> Tested {
        if self.sessions[session].open().is_none() || !self.work(session, Reaction::Abort)? {
            return Ok(());
        }
        let transaction = self.sessions[session].end();
        self.commit(&transaction.changes)?;
        self.notes.extend(transaction.late_notes());
        Ok(())
    }

    /// A transaction commits these changes.
    pub fn commit(&mut self, changes: &[Change]) -> Tested {
        for change in changes {
            self.judge.may_commit(&self.latest, &self.log, change)?;
            Rc::make_mut(&mut self.latest).apply(change);
        }
        self.durable = self.latest.clone();
        Ok(())
    }
}
