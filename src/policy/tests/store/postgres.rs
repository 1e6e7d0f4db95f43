//! Simulates what decides which events a sweep sees: the sequence, the locks of writers, and which transactions have ended.

use std::collections::{BTreeMap, BTreeSet};

/// The next step of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Reads where the sequence stands.
    ReadSequence,
    /// Takes the lock with what was read.
    Lock,
    NextVal,
    /// Inserts the event with the drawn position; whether it is wanted by the subscription.
    Insert(bool),
    Savepoint,
    /// Takes back the inserted events, and the lock if it was taken since.
    RollbackToSavepoint,
    /// PREPARE TRANSACTION, or any other pause: the locks stay.
    Prepare,
    Commit,
    Abort,
    /// The locks are released a moment after the commit is visible.
    Unlock,
}

#[derive(Debug, Default)]
struct Transaction {
    floor: Option<i64>,
    has_lock: bool,
    drawn: Option<i64>,
    events: Vec<i64>,
    savepoint: Option<(usize, bool)>,
}

/// A server with one store.
#[derive(Debug, Default)]
pub struct Postgres {
    sequence: i64,
    /// The events by position, each with its transaction, and whether it is wanted.
    events: BTreeMap<i64, (usize, bool)>,
    committed: BTreeSet<usize>,
    transactions: Vec<Transaction>,
}

impl Postgres {
    pub fn last(&self) -> i64 {
        self.sequence
    }

    /// The lowest position that a lock names.
    pub fn lowest_lock(&self) -> Option<i64> {
        self.transactions.iter().filter(|me| me.has_lock).filter_map(|me| me.floor).min()
    }

    /// The transactions whose events are visible.
    pub fn snapshot(&self) -> BTreeSet<usize> {
        self.committed.clone()
    }

    /// The events that the snapshot shows: position, and whether it is wanted.
    pub fn visible(&self, snapshot: &BTreeSet<usize>) -> Vec<(i64, bool)> {
        let seen = self.events.iter().filter(|(_, (writer, _))| snapshot.contains(writer));
        seen.map(|(position, (_, wanted))| (*position, *wanted)).collect()
    }

    pub fn begin(&mut self) -> usize {
        self.transactions.push(Transaction::default());
        self.transactions.len() - 1
    }

    pub fn run(&mut self, transaction: usize, op: Op) {
        let sequence = self.sequence;
        let me = &mut self.transactions[transaction];
        match op {
            // The session remembers what it has read before.
            Op::ReadSequence => me.floor = me.floor.or(Some(sequence)),
            Op::Lock => me.has_lock = true,
            Op::NextVal => {
                self.sequence += 1;
                me.drawn = Some(self.sequence);
            }
            Op::Insert(wanted) => {
                let position = me.drawn.take().expect("a drawn position");
                me.events.push(position);
                self.events.insert(position, (transaction, wanted));
            }
            Op::Savepoint => me.savepoint = Some((me.events.len(), me.has_lock)),
            Op::RollbackToSavepoint => {
                let (events, had_lock) = me.savepoint.take().expect("a savepoint");
                me.has_lock &= had_lock;
                for position in me.events.split_off(events) {
                    self.events.remove(&position);
                }
            }
            Op::Prepare => {}
            Op::Commit => {
                self.committed.insert(transaction);
            }
            Op::Abort => {
                for position in &me.events {
                    self.events.remove(position);
                }
            }
            Op::Unlock => me.has_lock = false,
        }
    }
}
