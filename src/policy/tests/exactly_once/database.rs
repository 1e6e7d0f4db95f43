//! The table of events, with deletions that a crash can undo, and dumps that are restored over it.

use std::collections::{BTreeMap, BTreeSet};

/// The table and its sequence.
#[derive(Debug, Clone, Default)]
pub struct Table {
    /// The rows: ids and the identities of their events.
    pub rows: BTreeMap<i64, u128>,
    last_id: i64,
}

/// A database.
#[derive(Debug, Default)]
pub struct Database {
    /// What sessions see.
    pub table: Table,
    /// Rows whose deletion is not on disk.
    unflushed: BTreeMap<i64, u128>,
    dump: Option<Table>,
    /// The number of events so far: their identities are never used again.
    events: u128,
    /// Events that must be published: those committed, and not undone by a restore.
    pub promised: BTreeSet<u128>,
    /// Events of a dump that was restored: they may be published once more.
    pub restored: BTreeSet<u128>,
}

impl Database {
    /// A session emits an event.
    pub fn emit(&mut self) {
        self.events += 1;
        self.table.last_id += 1;
        self.table.rows.insert(self.table.last_id, self.events);
        self.promised.insert(self.events);
    }

    /// Deletes a row if it holds this event. The deletion is not on disk yet.
    pub fn delete(&mut self, id: i64, event: u128) {
        if self.table.rows.get(&id) == Some(&event) {
            self.table.rows.remove(&id);
            self.unflushed.insert(id, event);
        }
    }

    /// All deletions are on disk from now on.
    pub fn flush(&mut self) {
        self.unflushed.clear();
    }

    /// The server crashes.
    pub fn crash(&mut self) {
        self.table.rows.append(&mut self.unflushed);
    }

    /// Takes a dump.
    pub fn dump(&mut self) {
        self.dump = Some(self.table.clone());
    }

    /// Puts the last dump in place of the table. What was emitted since is gone, and its ids will be given again. Returns
    /// whether there is a dump.
    pub fn restore(&mut self) -> bool {
        let Some(dump) = self.dump.clone() else { return false };
        let before: Vec<u128> = self.table.rows.values().chain(self.unflushed.values()).copied().collect();
        self.unflushed.clear();
        self.restored.extend(dump.rows.values());
        self.promised.extend(dump.rows.values());
        for event in before.iter().filter(|event| !dump.rows.values().any(|kept| kept == *event)) {
            self.promised.remove(event);
        }
        self.table = dump;
        true
    }
}
