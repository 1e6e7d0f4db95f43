//! The transactions of a writer: each way in which one can run and end.

use std::sync::Arc;

use postgres::Error;
use postgres::error::SqlState;

use super::Writer;
use super::events::Target;
use crate::clock;
use crate::journal::{Ending, Expected};
use crate::topics::{self, KEYS};

/// The most seconds that a long transaction stays open.
const LONG: f64 = 4.0;

/// The most events of a transaction, and of one that copies.
const EVENTS: usize = 6;
const COPIED: usize = 60;

/// How a transaction runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Commit,
    RollBack,
    /// It fails with an error and is rolled back.
    Fail,
    Savepoints,
    Prepare,
    /// It takes its locks in no particular order.
    Deadlock,
    /// It stays open, with lower ids than those of others.
    Long,
    Copy,
}

/// The ways and their weights.
const WAYS: [(Way, usize); 8] = [
    (Way::Commit, 50),
    (Way::RollBack, 10),
    (Way::Fail, 4),
    (Way::Savepoints, 12),
    (Way::Prepare, 8),
    (Way::Deadlock, 8),
    (Way::Long, 2),
    (Way::Copy, 3),
];

const ASYNCHRONOUS: &str = "SET LOCAL synchronous_commit = off";
const MARK: &str = "INSERT INTO torture.transactions VALUES ($1)";
const LOCK: &str = "SELECT FROM torture.aggregates WHERE topic = $1 AND key = $2 FOR UPDATE";
const IS_PREPARED: &str = "SELECT EXISTS (SELECT FROM pg_prepared_xacts WHERE gid = $1)";

impl Writer {
    /// Runs one random transaction.
    pub(super) fn step(&mut self) {
        // Changes by hand commit synchronously, which would flush the commits of all others.
        let is_hasty = self.shared.is_hasty();
        if !is_hasty && self.random.permille(self.shared.habits.by_hand) {
            let done = self.change_by_hand();
            return self.clean_up(done);
        }
        let mut at = self.random.below(WAYS.iter().map(|(_, weight)| weight).sum());
        let way = WAYS.iter().find(|(_, weight)| {
            let found = at < *weight;
            at = at.saturating_sub(*weight);
            found
        });
        let way = way.map_or(Way::Commit, |(way, _)| *way);
        let way = if is_hasty && way == Way::Prepare { Way::Commit } else { way };
        let number = self.begin_notes();
        let done = self.go(way, number);
        self.clean_up(done);
    }

    /// After an error, makes the connection usable again or drops it.
    pub(super) fn clean_up(&mut self, done: Result<(), Error>) {
        let Err(error) = done else { return };
        if error.code() == Some(&SqlState::T_R_DEADLOCK_DETECTED) {
            self.journal.deadlocks += 1;
        }
        let is_usable = self.client.as_mut().is_some_and(|client| client.batch_execute("ROLLBACK").is_ok());
        if !is_usable {
            self.client = None;
        }
    }

    fn go(&mut self, way: Way, number: i64) -> Result<(), Error> {
        let shared = Arc::clone(&self.shared);
        let mut targets = self.choose_targets(way);
        // Held to the end: a fault that deletes or creates a topic waits until nobody emits to it. A panic of a
        // holder ends the run anyway.
        let _volatile = targets
            .iter()
            .any(|target| target.topic == topics::VOLATILE)
            .then(|| shared.volatile.read().unwrap_or_else(std::sync::PoisonError::into_inner));
        let gets_lost = way != Way::Prepare && self.random.permille(shared.habits.lost);
        let created =
            gets_lost.then(|| shared.created.read().unwrap_or_else(std::sync::PoisonError::into_inner));
        self.begin(number)?;
        if way != Way::Prepare && (shared.is_hasty() || self.random.permille(shared.habits.asynchronous)) {
            self.execute(ASYNCHRONOUS)?;
            self.is_asynchronous = true;
        }
        if way != Way::Deadlock {
            // In a fixed order, as cooperating applications do.
            targets.sort_unstable();
        }
        for target in &targets {
            self.lock(*target)?;
        }
        if way == Way::Copy {
            let count = self.random.between(1, COPIED);
            self.copy(number, targets[0], count)?;
        }
        let count = self.random.between(1, EVENTS);
        for _ in 0..count {
            self.emit_one(number, &targets, way)?;
        }
        if let Some(created) = &created {
            let lost = Target { topic: topics::lost(**created), ..targets[0] };
            self.emit(number, lost, Expected::Dies)?;
        }
        self.finish(way, number)
    }

    /// Begins a transaction that leaves a marker if it commits.
    pub(super) fn begin(&mut self, number: i64) -> Result<(), Error> {
        self.is_asynchronous = false;
        let Some(client) = self.client.as_mut() else { return Ok(()) };
        client.batch_execute("BEGIN")?;
        client.execute(MARK, &[&number])?;
        Ok(())
    }

    /// Waits for other writers of a key.
    pub(super) fn lock(&mut self, target: Target) -> Result<(), Error> {
        let (Some(client), Some(key)) = (self.client.as_mut(), target.key) else { return Ok(()) };
        client.execute(LOCK, &[&self.shared.topics[target.topic], &key.to_string()])?;
        Ok(())
    }

    fn choose_targets(&mut self, way: Way) -> Vec<Target> {
        let count = self.random.between(1, 3);
        let mut targets: Vec<Target> = (0..count).map(|_| self.choose_target()).collect();
        match way {
            // A prepared transaction may commit long after its topic was deleted and created.
            Way::Prepare => targets.iter_mut().for_each(|target| target.topic %= topics::VOLATILE),
            // Few keys, so that transactions collide.
            Way::Deadlock => {
                let low = |random: &mut super::Random| Some(random.below(KEYS / 10) as u16);
                targets = vec![Target { topic: 2, key: low(&mut self.random) }, targets[0]];
                targets.push(Target { topic: 2, key: low(&mut self.random) });
            }
            _ => {}
        }
        targets
    }

    fn emit_one(&mut self, number: i64, targets: &[Target], way: Way) -> Result<(), Error> {
        let target = *self.random.one_of(targets);
        // While a topic is missing none of its events dies: poison would block its key for as long.
        let is_poison = target.topic != topics::VOLATILE && self.wants_poison();
        let expected = if is_poison { Expected::Dies } else { Expected::Arrives };
        if way != Way::Savepoints || self.random.permille(500) {
            return self.emit(number, target, expected).map(drop);
        }
        self.execute("SAVEPOINT s")?;
        let before = self.journal.entries.len();
        self.emit(number, target, expected)?;
        if self.random.permille(500) {
            // These events are gone, whatever becomes of the transaction.
            self.journal.entries[before..].iter_mut().for_each(|entry| entry.expected = Expected::Never);
            self.execute("ROLLBACK TO SAVEPOINT s")?;
        }
        self.execute("RELEASE SAVEPOINT s")
    }

    fn finish(&mut self, way: Way, number: i64) -> Result<(), Error> {
        match way {
            Way::RollBack => self.execute("ROLLBACK"),
            Way::Fail => self.execute("SELECT outbox.emit('no topic!', '{}')"),
            Way::Prepare => self.prepare(number),
            Way::Long => {
                let seconds = LONG * self.random.below(1000) as f64 / 1000.0;
                self.execute(&format!("SELECT pg_sleep({seconds})"))?;
                self.commit(number)
            }
            Way::Commit | Way::Savepoints | Way::Deadlock | Way::Copy => self.commit(number),
        }
    }

    /// Commits; the end is unknown until the server reports it.
    pub(super) fn commit(&mut self, number: i64) -> Result<(), Error> {
        self.note(number, Ending::Unknown);
        self.execute("COMMIT")?;
        let ending = match self.is_asynchronous {
            true => Ending::CommittedAsynchronously(clock::now()),
            false => Ending::Committed,
        };
        self.note(number, ending);
        Ok(())
    }

    fn prepare(&mut self, number: i64) -> Result<(), Error> {
        let commits = self.random.permille(800);
        if commits {
            self.note(number, Ending::Unknown);
        }
        self.limbo = Some((number, commits));
        if let Err(error) = self.execute(&format!("PREPARE TRANSACTION '{number}'")) {
            // The server refused: there is nothing to end.
            if error.code().is_some() && self.client.as_ref().is_some_and(|client| !client.is_closed()) {
                self.limbo = None;
            }
            return Err(error);
        }
        self.journal.prepared += 1;
        self.leave_limbo()
    }

    /// Ends a prepared transaction, perhaps of an earlier connection.
    pub(super) fn leave_limbo(&mut self) -> Result<(), Error> {
        let Some((number, commits)) = self.limbo else { return Ok(()) };
        let Some(client) = self.client.as_mut() else { return Ok(()) };
        let gid = number.to_string();
        let is_prepared: bool = client.query_one(IS_PREPARED, &[&gid])?.get(0);
        if is_prepared {
            let verb = if commits { "COMMIT" } else { "ROLLBACK" };
            self.execute(&format!("{verb} PREPARED '{gid}'"))?;
            if commits {
                self.note(number, Ending::Committed);
            }
        }
        self.limbo = None;
        Ok(())
    }

    pub(super) fn execute(&mut self, sql: &str) -> Result<(), Error> {
        self.client.as_mut().map_or(Ok(()), |client| client.batch_execute(sql))
    }
}
