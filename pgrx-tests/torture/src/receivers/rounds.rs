//! The rounds of a receiver: each way in which a session can receive, handle and fail.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::thread::sleep;

use anyhow::Result;
use postgres::{Error, Row};
use uuid::Uuid;

use super::{CARELESS_ATTEMPTS, LAST_DEADLINE, RECONNECT, RECREATED, Receiver, SESSION, SESSIONS, Sharing};
use crate::evidence::is_poison;
use crate::random::Random;
use event_outbox_lab::wait;

/// How a round goes, if there is no poison in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Commit,
    RollBack,
    /// A statement fails after the events were handled.
    Fail,
    /// The session ends in the middle.
    Vanish,
    /// A savepoint in which events were handled is rolled back; then others, or the same, are handled.
    RollBackTo,
    /// Handled in a savepoint, which is released; then more, in one that is rolled back.
    Release,
    Prepare,
    /// One of the events is given back.
    Nack,
    Lease,
    /// The lease is prolonged before it is acknowledged.
    Extend,
    /// The lease is left to expire.
    Forsake,
    /// The transaction that acknowledges the lease is rolled back, and done again.
    AckTwice,
}

/// The ways and their weights.
const WAYS: [(Way, usize); 12] = [
    (Way::Commit, 50),
    (Way::RollBack, 4),
    (Way::Fail, 4),
    (Way::Vanish, 2),
    (Way::RollBackTo, 5),
    (Way::Release, 5),
    (Way::Prepare, 8),
    (Way::Nack, 6),
    (Way::Lease, 5),
    (Way::Extend, 3),
    (Way::Forsake, 2),
    (Way::AckTwice, 3),
];

/// Shares of a thousand: transactions that commit without waiting for the disk, and those that keep to one snapshot.
const ASYNCHRONOUS: usize = 250;
const REPEATABLE: usize = 100;
const SERIALIZABLE: usize = 50;
/// Rounds that receive from the subscription of the topic that is created again.
const OF_RECREATED: usize = 200;
/// Of batches with poison, those of which the poison is given back.
const GIVEN_BACK: usize = 500;
/// Of prepared transactions, those that are committed.
const PREPARED_COMMIT: usize = 800;

/// How many events are received at once.
const BATCHES: [i32; 6] = [1, 3, 10, 50, 100, 300];

const RECEIVE: &str = "SELECT position, topic, partition, \"offset\", event_id, left(convert_from(key, 'UTF8'), 8), length(key), \
                              attempt, lease FROM inbox.receive($1, $2)";
const RECEIVE_LEASED: &str = "SELECT position, topic, partition, \"offset\", event_id, left(convert_from(key, 'UTF8'), 8), \
                                     length(key), attempt, lease FROM inbox.receive($1, $2, '1200 ms')";
const KEEP: &str = "INSERT INTO torture.handled (subscription, topic, partition, \"offset\", event_id, key_start, key_length) \
                    SELECT $1, e.* FROM unnest($2::text[], $3::int4[], $4::int8[], $5::text[], $6::text[], $7::int4[]) AS e";
const NACK: &str = "SELECT inbox.nack($1, $2, 'given back', retry_after => '100 ms')";
const ACK: &str = "SELECT inbox.ack($1)";
const EXTEND: &str = "SELECT inbox.extend($1, '2 s')";
const AWAIT: &str = "CALL inbox.await('sessions', '300 ms')";
const IS_PREPARED: &str = "SELECT EXISTS (SELECT FROM pg_prepared_xacts WHERE gid = $1)";

/// An event that was received.
#[derive(Clone, Debug)]
struct Received {
    position: i64,
    topic: String,
    partition: i32,
    offset: i64,
    event_id: Option<String>,
    key: Option<(String, i32)>,
    attempt: i32,
    lease: Option<Uuid>,
}

impl Received {
    fn of(row: &Row) -> Self {
        let key: Option<String> = row.get(5);
        Self {
            position: row.get(0),
            topic: row.get(1),
            partition: row.get(2),
            offset: row.get(3),
            event_id: row.get(4),
            key: key.map(|start| (start, row.get(6))),
            attempt: row.get(7),
            lease: row.get(8),
        }
    }

    fn is_poison(&self) -> bool {
        self.event_id.as_deref().and_then(|id| id.parse().ok()).is_some_and(is_poison)
    }
}

impl Receiver {
    pub(super) fn new(number: usize, seed: u64, sharing: Arc<Sharing>) -> Self {
        // Other generators than those of the writers.
        let random = Random::new(seed, 1_000 + number as u64);
        Self { number, rounds: 0, random, sharing, client: None, limbo: None, subscription: SESSIONS }
    }

    /// Works until it is told to stop; returns how many events it has handled.
    pub(super) fn work(mut self) -> Result<usize> {
        let sharing = Arc::clone(&self.sharing);
        while !sharing.stop.load(Ordering::Relaxed) {
            if !self.connect() {
                sleep(RECONNECT);
                continue;
            }
            let round = sharing.rounds.read().unwrap_or_else(PoisonError::into_inner);
            let done = self.round();
            drop(round);
            match done {
                Ok(true) => {}
                Ok(false) => {
                    let done = self.execute(AWAIT);
                    self.clean_up(done);
                }
                Err(error) => self.clean_up(Err(error)),
            }
        }
        wait::until("a receiver to finish its prepared transaction", LAST_DEADLINE, || {
            (self.limbo.is_none() || (self.connect() && self.limbo.is_none())).then_some(())
        })?;
        Ok(self.sharing.handled.load(Ordering::Relaxed))
    }

    /// Connects if need be, and ends a prepared transaction; returns whether both succeeded.
    fn connect(&mut self) -> bool {
        if self.client.is_none() {
            self.client = self.sharing.dial.connect(SESSION);
        }
        let done = self.leave_limbo();
        let is_done = done.is_ok() && self.client.is_some();
        self.clean_up(done);
        is_done
    }

    /// After an error, makes the connection usable again or drops it.
    fn clean_up(&mut self, done: Result<(), Error>) {
        if done.is_err()
            && self.client.as_mut().is_none_or(|client| client.batch_execute("ROLLBACK").is_err())
        {
            self.client = None;
        }
    }

    /// Receives in a random way; returns whether there was something.
    fn round(&mut self) -> Result<bool, Error> {
        self.rounds += 1;
        self.subscription = if self.random.permille(OF_RECREATED) { RECREATED } else { SESSIONS };
        let mut at = self.random.below(WAYS.iter().map(|(_, weight)| weight).sum());
        let way = WAYS.iter().find(|(_, weight)| {
            let is_it = at < *weight;
            at = at.saturating_sub(*weight);
            is_it
        });
        match way.map_or(Way::Commit, |(way, _)| *way) {
            way @ (Way::Lease | Way::Extend | Way::Forsake | Way::AckTwice) => self.lease(way),
            way => self.transact(way),
        }
    }

    fn transact(&mut self, way: Way) -> Result<bool, Error> {
        let level = match self.random.below(1000) {
            at if at < SERIALIZABLE => "SERIALIZABLE",
            at if at < SERIALIZABLE + REPEATABLE => "REPEATABLE READ",
            _ => "READ COMMITTED",
        };
        self.execute(&format!("BEGIN ISOLATION LEVEL {level}"))?;
        if way != Way::Prepare && self.random.permille(ASYNCHRONOUS) {
            self.execute("SET LOCAL synchronous_commit = off")?;
        }
        if matches!(way, Way::RollBackTo | Way::Release) {
            self.execute("SAVEPOINT s")?;
        }
        let events = self.receive(RECEIVE)?;
        if events.is_empty() {
            self.execute("COMMIT")?;
            return Ok(false);
        }
        if events.iter().any(Received::is_poison) {
            self.refuse_poison(events)?;
            return Ok(true);
        }
        // An event that has failed often must not die of it.
        let may_fail = self.may_fail(&events);
        let way = if may_fail { way } else { Way::Commit };
        match way {
            Way::Nack => return self.give_back(events).map(|()| true),
            _ => self.keep(&events)?,
        }
        match way {
            Way::RollBack => self.execute("ROLLBACK")?,
            Way::Fail => self.execute("SELECT 1 / 0")?,
            Way::Vanish => self.client = None,
            Way::Prepare => self.prepare(events.len())?,
            Way::RollBackTo => {
                self.execute("ROLLBACK TO SAVEPOINT s")?;
                self.handle_more()?;
            }
            Way::Release => {
                self.execute("RELEASE SAVEPOINT s; SAVEPOINT t")?;
                self.handle_second_part(events.len())?;
            }
            _ => self.commit(events.len())?,
        }
        Ok(true)
    }

    /// Receives again, after a savepoint was rolled back, and commits.
    fn handle_more(&mut self) -> Result<(), Error> {
        let events = self.receive(RECEIVE)?;
        if events.iter().any(Received::is_poison) {
            return self.execute("ROLLBACK");
        }
        self.keep(&events)?;
        self.commit(events.len())
    }

    /// Receives again in a savepoint, which may be rolled back, and commits.
    fn handle_second_part(&mut self, first_part: usize) -> Result<(), Error> {
        let events = self.receive(RECEIVE)?;
        self.keep(&events)?;
        let is_poisoned = events.iter().any(Received::is_poison);
        if is_poisoned || (self.may_fail(&events) && self.random.permille(500)) {
            self.execute("ROLLBACK TO SAVEPOINT t")?;
            return self.commit(first_part);
        }
        self.commit(first_part + events.len())
    }

    /// Fails, or gives the poison back and handles the rest.
    fn refuse_poison(&mut self, events: Vec<Received>) -> Result<(), Error> {
        if !self.random.permille(GIVEN_BACK) {
            return self.execute("DO $$BEGIN RAISE EXCEPTION 'poison'; END$$");
        }
        let poison: Vec<i64> =
            events.iter().filter(|event| event.is_poison()).map(|event| event.position).collect();
        self.nack(events, &poison)
    }

    /// Gives one of the events back.
    fn give_back(&mut self, events: Vec<Received>) -> Result<(), Error> {
        let at = self.random.below(events.len());
        let position = events[at].position;
        self.nack(events, &[position])
    }

    fn nack(&mut self, mut events: Vec<Received>, positions: &[i64]) -> Result<(), Error> {
        for position in positions {
            let Some(client) = self.client.as_mut() else { return Ok(()) };
            let later: Vec<i64> = client.query_one(NACK, &[&self.subscription, position])?.get(0);
            events.retain(|event| event.position != *position && !later.contains(&event.position));
        }
        self.keep(&events)?;
        self.commit(events.len())
    }

    /// Leases events, handles them, and acknowledges them in the transaction that keeps them.
    fn lease(&mut self, way: Way) -> Result<bool, Error> {
        let events = self.receive(RECEIVE_LEASED)?;
        let Some(lease) = events.first().and_then(|event| event.lease) else { return Ok(false) };
        sleep(self.random.millis(0, 100));
        let may_fail = self.may_fail(&events);
        if events.iter().any(Received::is_poison) || (way == Way::Forsake && may_fail) {
            return Ok(true);
        }
        if way == Way::Extend && !self.ask(EXTEND, lease)? {
            return Ok(true);
        }
        if way == Way::AckTwice && may_fail {
            self.execute("BEGIN")?;
            if self.ask(ACK, lease)? {
                self.keep(&events)?;
            }
            self.execute("ROLLBACK")?;
        }
        self.execute("BEGIN")?;
        if !self.ask(ACK, lease)? {
            self.execute("ROLLBACK")?;
            return Ok(true);
        }
        self.keep(&events)?;
        self.commit(events.len())?;
        Ok(true)
    }

    fn ask(&mut self, sql: &str, lease: Uuid) -> Result<bool, Error> {
        self.client.as_mut().map_or(Ok(false), |client| Ok(client.query_one(sql, &[&lease])?.get(0)))
    }

    /// Whether the round may fail on purpose.
    fn may_fail(&self, events: &[Received]) -> bool {
        !self.sharing.is_careful.load(Ordering::Relaxed)
            && events.iter().all(|event| event.attempt <= CARELESS_ATTEMPTS)
    }

    fn receive(&mut self, sql: &str) -> Result<Vec<Received>, Error> {
        let count = *self.random.one_of(&BATCHES);
        let Some(client) = self.client.as_mut() else { return Ok(Vec::new()) };
        Ok(client.query(sql, &[&self.subscription, &count])?.iter().map(Received::of).collect())
    }

    /// Records that events were handled.
    fn keep(&mut self, events: &[Received]) -> Result<(), Error> {
        let Some(client) = self.client.as_mut() else { return Ok(()) };
        let column = events.iter();
        let topics: Vec<&str> = column.clone().map(|event| &*event.topic).collect();
        let partitions: Vec<i32> = column.clone().map(|event| event.partition).collect();
        let offsets: Vec<i64> = column.clone().map(|event| event.offset).collect();
        let ids: Vec<Option<&str>> = column.clone().map(|event| event.event_id.as_deref()).collect();
        let keys: Vec<Option<&str>> =
            column.clone().map(|event| event.key.as_ref().map(|(start, _)| &**start)).collect();
        let lengths: Vec<Option<i32>> =
            column.map(|event| event.key.as_ref().map(|(_, length)| *length)).collect();
        client.execute(KEEP, &[&self.subscription, &topics, &partitions, &offsets, &ids, &keys, &lengths])?;
        Ok(())
    }

    fn commit(&mut self, count: usize) -> Result<(), Error> {
        self.execute("COMMIT")?;
        self.sharing.handled.fetch_add(count, Ordering::Relaxed);
        Ok(())
    }

    fn prepare(&mut self, count: usize) -> Result<(), Error> {
        let name = format!("receiver {} {}", self.number, self.rounds);
        self.limbo = Some((name.clone(), self.random.permille(PREPARED_COMMIT)));
        if let Err(error) = self.execute(&format!("PREPARE TRANSACTION '{name}'")) {
            // The server refused: there is nothing to end.
            if error.code().is_some() && self.client.as_ref().is_some_and(|client| !client.is_closed()) {
                self.limbo = None;
            }
            return Err(error);
        }
        sleep(self.random.millis(0, 50));
        self.leave_limbo()?;
        self.sharing.handled.fetch_add(count, Ordering::Relaxed);
        Ok(())
    }

    /// Ends a prepared transaction, perhaps of an earlier connection.
    fn leave_limbo(&mut self) -> Result<(), Error> {
        let Some((name, commits)) = self.limbo.clone() else { return Ok(()) };
        let Some(client) = self.client.as_mut() else { return Ok(()) };
        if client.query_one(IS_PREPARED, &[&name])?.get(0) {
            let verb = if commits { "COMMIT" } else { "ROLLBACK" };
            self.execute(&format!("{verb} PREPARED '{name}'"))?;
        }
        self.limbo = None;
        Ok(())
    }

    fn execute(&mut self, sql: &str) -> Result<(), Error> {
        self.client.as_mut().map_or(Ok(()), |client| client.batch_execute(sql))
    }
}
