//! Simulates the parts of PostgreSQL that decide which rows a snapshot shows: xids, their assignment and completion, and
//! the sequence.

use std::collections::{BTreeMap, BTreeSet};

/// The transactions whose rows are visible.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub xmax: u64,
    pub running: BTreeSet<u64>,
}

/// The next step of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// The trigger, or a write to another table, assigns the top-level xid, and the savepoint's own if there is one.
    AssignXid,
    /// Draws an id, which is not in the table yet.
    NextVal,
    /// Inserts the row with the drawn id.
    Insert,
    Savepoint,
    ReleaseSavepoint,
    RollbackToSavepoint,
    /// PREPARE TRANSACTION, or any other pause: the transaction is still listed as running.
    Prepare,
    Commit,
    Abort,
}

#[derive(Debug, Default)]
struct Transaction {
    xid: Option<u64>,
    /// `Some(None)` means inside a savepoint that has no xid yet.
    savepoint: Option<Option<u64>>,
    highest_xid: u64,
    drawn: Option<i64>,
    rows: Vec<i64>,
    rows_before_savepoint: usize,
}

/// A server with one table of events.
#[derive(Debug)]
pub struct Postgres {
    next_xid: u64,
    latest_completed: u64,
    sequence: i64,
    running: BTreeSet<u64>,
    committed: BTreeSet<u64>,
    /// The rows by id, each with the xid of its transaction.
    rows: BTreeMap<i64, u64>,
    transactions: Vec<Transaction>,
}

impl Postgres {
    pub fn new() -> Self {
        Self {
            next_xid: 100,
            latest_completed: 99,
            sequence: 0,
            running: BTreeSet::new(),
            committed: BTreeSet::new(),
            rows: BTreeMap::new(),
            transactions: Vec::new(),
        }
    }

    pub fn last_id(&self) -> i64 {
        self.sequence
    }

    pub fn next_xid(&self) -> u64 {
        self.next_xid
    }

    pub fn snapshot(&self) -> Snapshot {
        let xmax = self.latest_completed + 1;
        Snapshot { xmax, running: self.running.range(..xmax).copied().collect() }
    }

    /// The rows with ids above `after` that the snapshot shows.
    pub fn visible<'a>(&'a self, after: i64, snapshot: &'a Snapshot) -> impl Iterator<Item = i64> + 'a {
        let ended = |xid| xid < snapshot.xmax && !snapshot.running.contains(&xid);
        self.rows
            .range(after + 1..)
            .filter(move |&(_, &xid)| ended(xid) && self.committed.contains(&xid))
            .map(|(&id, _)| id)
    }

    /// The relay's own transaction, which gets an xid, too.
    pub fn delete(&mut self, ids: &[i64]) {
        self.latest_completed = self.latest_completed.max(self.next_xid);
        self.next_xid += 1;
        for id in ids {
            assert!(self.rows.remove(id).is_some(), "{id} was settled before");
        }
    }

    pub fn begin(&mut self) -> usize {
        self.transactions.push(Transaction::default());
        self.transactions.len() - 1
    }

    pub fn run(&mut self, transaction: usize, op: Op) {
        let mut me = std::mem::take(&mut self.transactions[transaction]);
        match op {
            Op::AssignXid => self.assign_xid(&mut me),
            Op::NextVal => {
                self.sequence += 1;
                me.drawn = Some(self.sequence);
            }
            Op::Insert => {
                let id = me.drawn.take().expect("a drawn id");
                self.rows.insert(id, me.xid.expect("an xid"));
                me.rows.push(id);
            }
            Op::Savepoint => {
                me.savepoint = Some(None);
                me.rows_before_savepoint = me.rows.len();
            }
            Op::ReleaseSavepoint => me.savepoint = None,
            Op::RollbackToSavepoint => {
                // XidCacheRemoveRunningXids does the same.
                let xid = me.savepoint.take().flatten();
                self.latest_completed = self.latest_completed.max(xid.unwrap_or(0));
                for id in me.rows.split_off(me.rows_before_savepoint) {
                    self.rows.remove(&id);
                }
            }
            Op::Prepare => {}
            Op::Commit => {
                self.committed.extend(me.xid);
                self.complete(&me);
            }
            Op::Abort => {
                for id in &me.rows {
                    self.rows.remove(id);
                }
                self.complete(&me);
            }
        }
        self.transactions[transaction] = me;
    }

    fn assign_xid(&mut self, me: &mut Transaction) {
        if me.xid.is_none() {
            me.xid = Some(self.take_xid(me));
            self.running.extend(me.xid);
        }
        if me.savepoint == Some(None) {
            me.savepoint = Some(Some(self.take_xid(me)));
        }
    }

    fn take_xid(&mut self, me: &mut Transaction) -> u64 {
        me.highest_xid = self.next_xid;
        self.next_xid += 1;
        me.highest_xid
    }

    fn complete(&mut self, me: &Transaction) {
        if let Some(xid) = me.xid {
            self.running.remove(&xid);
            self.latest_completed = self.latest_completed.max(me.highest_xid);
        }
    }
}
