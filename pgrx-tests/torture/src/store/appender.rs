//! A session that appends: each way in which a transaction can run and end, and what it expects of the streams.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;
use postgres::{Client, Error};
use serde_json::{Value, json};
use uuid::Uuid;

use super::commands::Command;
use super::{Appended, Journal, LAST_DEADLINE, PAUSE, SESSION, TOPIC};
use crate::dial::Dial;
use crate::journal::Ending;
use crate::random::Random;
use event_outbox_lab::wait;

/// How many streams all append to.
pub(super) const SHARED: usize = 10;
/// Shares of a thousand.
const OF_ANOTHER_CATEGORY: usize = 100;
const OF_ITS_OWN: usize = 300;
const EMITTED: usize = 400;
const WITH_IDS: usize = 300;
const ASYNCHRONOUS: usize = 200;
const PREPARED_COMMIT: usize = 800;

/// The most events of an append, and the most appends of a transaction.
const EVENTS: usize = 5;
const APPENDS: usize = 4;
/// The longest rest between two transactions, and the longest that one is left open, in milliseconds.
const REST: usize = 40;
const OPEN: usize = 1_500;

/// The SQLSTATE of a stream that is not as expected.
const WRONG_VERSION: &str = "OE001";

const MARK: &str = "INSERT INTO torture.store_transactions VALUES ($1) ON CONFLICT DO NOTHING";
const APPEND: &str = "SELECT event_store.append($1, $2, $3, $4, $5)";
const VERSION: &str = "SELECT event_store.stream_version($1)";
const IS_PREPARED: &str = "SELECT EXISTS (SELECT FROM pg_prepared_xacts WHERE gid = $1)";

/// How a transaction runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Commit,
    RollBack,
    /// What is appended in a savepoint is rolled back.
    Savepoint,
    Prepare,
    /// It stays open, so that its positions are below those of others that commit before it.
    Long,
    /// The session ends in the middle.
    Vanish,
    /// One append with the id of a command, which is repeated until its end is known.
    Command,
}

/// The ways and their weights.
const WAYS: [(Way, usize); 7] = [
    (Way::Commit, 40),
    (Way::RollBack, 8),
    (Way::Savepoint, 12),
    (Way::Prepare, 8),
    (Way::Long, 4),
    (Way::Vanish, 2),
    (Way::Command, 20),
];

/// One session after the other.
pub struct Appender {
    number: i64,
    transactions: i64,
    pub(super) random: Random,
    dial: Dial,
    stop: Arc<AtomicBool>,
    pub(super) client: Option<Client>,
    pub(super) journal: Journal,
    /// The version of the stream to which nobody else appends, if it is known.
    own: Option<i64>,
    /// A prepared transaction that may not have ended: its number, and whether it shall commit.
    limbo: Option<(i64, bool)>,
    /// A command of which the end is not known.
    pub(super) open: Option<Command>,
}

impl Appender {
    pub(super) fn new(number: usize, seed: u64, dial: Dial, stop: Arc<AtomicBool>) -> Self {
        Self {
            number: number as i64,
            transactions: 0,
            // Other generators than those of writers and receivers.
            random: Random::new(seed, 2_000 + number as u64),
            dial,
            stop,
            client: None,
            journal: Journal::default(),
            own: None,
            limbo: None,
            open: None,
        }
    }

    pub(super) fn work(mut self) -> Result<Journal> {
        while !self.stop.load(Ordering::Relaxed) {
            if self.connect() {
                let done = self.step();
                self.clean_up(done);
                sleep(self.random.millis(0, REST));
            } else {
                sleep(PAUSE);
            }
        }
        wait::until("an appender to finish what it has begun", LAST_DEADLINE, || {
            self.connect().then_some(())
        })?;
        Ok(self.journal)
    }

    /// Connects if need be, and ends what was left open; returns whether all of that succeeded.
    fn connect(&mut self) -> bool {
        if self.client.is_none() {
            self.client = self.dial.connect(SESSION);
        }
        let done = self.leave_limbo().and_then(|()| self.repeat_command());
        let is_done = done.is_ok() && self.client.is_some();
        self.clean_up(done);
        is_done
    }

    /// After an error, makes the connection usable again or drops it.
    fn clean_up(&mut self, done: Result<(), Error>) {
        if done.is_err() {
            self.own = None;
            if self.client.as_mut().is_none_or(|client| client.batch_execute("ROLLBACK").is_err()) {
                self.client = None;
            }
        }
    }

    /// Runs one random transaction.
    fn step(&mut self) -> Result<(), Error> {
        let mut at = self.random.below(WAYS.iter().map(|(_, weight)| weight).sum());
        let way = WAYS.iter().find(|(_, weight)| {
            let is_it = at < *weight;
            at = at.saturating_sub(*weight);
            is_it
        });
        let way = way.map_or(Way::Commit, |(way, _)| *way);
        self.transactions += 1;
        let number = self.number << 32 | self.transactions;
        self.journal.endings.insert(number, Ending::RolledBack);
        if way == Way::Command {
            return self.command(number);
        }
        self.begin(number)?;
        if way != Way::Prepare && self.random.permille(ASYNCHRONOUS) {
            self.execute("SET LOCAL synchronous_commit = off")?;
            // A crash may take it back: only its marker tells.
            self.journal.endings.insert(number, Ending::Unknown);
        }
        // In a fixed order, as cooperating applications do.
        let mut streams: Vec<String> =
            (0..self.random.between(1, APPENDS)).map(|_| self.choose_stream()).collect();
        streams.sort_unstable();
        let mut count = 0;
        for stream in &streams {
            let rolls_back = way == Way::Savepoint && self.random.permille(500);
            let before = (self.journal.events.len(), self.own);
            if rolls_back {
                self.execute("SAVEPOINT s")?;
            }
            self.append(number, stream, &mut count)?;
            if rolls_back {
                self.execute("ROLLBACK TO SAVEPOINT s")?;
                self.journal.events.truncate(before.0);
                self.own = before.1;
            }
        }
        self.finish(way, number)
    }

    pub(super) fn begin(&mut self, number: i64) -> Result<(), Error> {
        self.execute("BEGIN")?;
        if let Some(client) = self.client.as_mut() {
            client.execute(MARK, &[&number])?;
        }
        Ok(())
    }

    fn choose_stream(&mut self) -> String {
        match self.random.below(1000) {
            at if at < OF_ANOTHER_CATEGORY => format!("other-{}", self.random.below(SHARED)),
            at if at < OF_ANOTHER_CATEGORY + OF_ITS_OWN => self.own_stream(),
            _ => format!("stream-{}", self.random.below(SHARED)),
        }
    }

    fn own_stream(&self) -> String {
        format!("stream-of-{}", self.number)
    }

    /// Appends to a stream, with an expectation that holds or not.
    fn append(&mut self, number: i64, stream: &str, count: &mut i64) -> Result<(), Error> {
        let is_own = stream == self.own_stream();
        let version = match self.own.filter(|_| is_own) {
            Some(known) => known,
            None => self.version(stream)?,
        };
        if version > 0 && self.random.permille(100) {
            self.expect_too_little(stream, version - 1)?;
        }
        let is_exact = is_own || self.random.permille(400);
        let expected = if is_exact { version.to_string() } else { "any".into() };
        let (events, topic) = self.new_events(number, stream, count);
        let appended = self.call(stream, &expected, &events, None, topic);
        match appended {
            Ok(reached) => {
                let wanted = version + events.as_array().map_or(0, Vec::len) as i64;
                if is_exact && reached != wanted {
                    self.wrong(format!("{stream} has version {reached} after an append, not {wanted}"));
                }
                self.own = if is_own { Some(reached) } else { self.own };
                if events[0].get("id").is_some() {
                    self.append_again(stream, &events, reached)?;
                }
                Ok(())
            }
            Err(error) => {
                if error.code().is_some_and(|code| code.code() == WRONG_VERSION) {
                    self.journal.conflicts += 1;
                    if is_own {
                        self.wrong(format!("{stream} is not at {version} for its only writer: {error:?}"));
                    }
                    if !is_exact {
                        self.wrong(format!("an append that expects nothing was refused: {error:?}"));
                    }
                }
                Err(error)
            }
        }
    }

    /// A version that the stream had before must be refused.
    fn expect_too_little(&mut self, stream: &str, version: i64) -> Result<(), Error> {
        self.execute("SAVEPOINT stale")?;
        let event = json!([{"type": "stale"}]);
        match self.call(stream, &version.to_string(), &event, None, None) {
            Ok(_) => {
                self.wrong(format!("{stream} took an append that expects version {version}, which is past"))
            }
            Err(error) if error.code().is_some_and(|code| code.code() == WRONG_VERSION) => {}
            Err(error) => return Err(error),
        }
        self.execute("ROLLBACK TO SAVEPOINT stale; RELEASE SAVEPOINT stale")
    }

    /// Events with ids that the stream has are not stored again.
    fn append_again(&mut self, stream: &str, events: &Value, reached: i64) -> Result<(), Error> {
        let again = self.call(stream, "any", events, None, Some(TOPIC))?;
        if again != reached {
            self.wrong(format!("{stream} has version {again} after the same events again, not {reached}"));
        }
        Ok(())
    }

    /// Events that know their transaction and number, and the topic to publish them to.
    pub(super) fn new_events(
        &mut self,
        number: i64,
        stream: &str,
        count: &mut i64,
    ) -> (Value, Option<&'static str>) {
        let topic = self.random.permille(EMITTED).then_some(TOPIC);
        let has_ids = self.random.permille(WITH_IDS);
        let mut events = Vec::new();
        for _ in 0..self.random.between(1, EVENTS) {
            *count += 1;
            let mut event = json!({"type": "torture", "data": {"t": number, "n": *count}});
            if has_ids {
                let id = Uuid::from_u64_pair(self.random.bits(), self.random.bits());
                event["id"] = json!(id.to_string());
            }
            events.push(event);
            self.journal.events.push(Appended {
                id: (number, *count),
                stream: stream.to_owned(),
                is_emitted: topic.is_some(),
            });
        }
        (Value::Array(events), topic)
    }

    fn finish(&mut self, way: Way, number: i64) -> Result<(), Error> {
        match way {
            Way::RollBack => {
                self.own = None;
                self.execute("ROLLBACK")
            }
            Way::Vanish => {
                (self.own, self.client) = (None, None);
                Ok(())
            }
            Way::Prepare => self.prepare(number),
            Way::Long => {
                sleep(Duration::from_millis(self.random.below(OPEN) as u64));
                self.commit(number)
            }
            _ => self.commit(number),
        }
    }

    /// Commits; the end is unknown until the server reports it.
    fn commit(&mut self, number: i64) -> Result<(), Error> {
        let is_asynchronous = self.journal.endings.insert(number, Ending::Unknown) == Some(Ending::Unknown);
        self.execute("COMMIT")?;
        if !is_asynchronous {
            self.journal.endings.insert(number, Ending::Committed);
        }
        Ok(())
    }

    fn prepare(&mut self, number: i64) -> Result<(), Error> {
        let commits = self.random.permille(PREPARED_COMMIT);
        if commits {
            self.journal.endings.insert(number, Ending::Unknown);
        } else {
            self.own = None;
        }
        self.limbo = Some((number, commits));
        if let Err(error) = self.execute(&format!("PREPARE TRANSACTION 'appender {number}'")) {
            // The server refused: there is nothing to end.
            if error.code().is_some() && self.client.as_ref().is_some_and(|client| !client.is_closed()) {
                self.limbo = None;
            }
            return Err(error);
        }
        sleep(self.random.millis(0, 200));
        self.leave_limbo()
    }

    /// Ends a prepared transaction, perhaps of an earlier connection.
    fn leave_limbo(&mut self) -> Result<(), Error> {
        let Some((number, commits)) = self.limbo else { return Ok(()) };
        let Some(client) = self.client.as_mut() else { return Ok(()) };
        let name = format!("appender {number}");
        if client.query_one(IS_PREPARED, &[&name])?.get(0) {
            let verb = if commits { "COMMIT" } else { "ROLLBACK" };
            self.execute(&format!("{verb} PREPARED '{name}'"))?;
            if commits {
                self.journal.endings.insert(number, Ending::Committed);
            }
        }
        self.limbo = None;
        Ok(())
    }

    pub(super) fn call(
        &mut self,
        stream: &str,
        expected: &str,
        events: &Value,
        command: Option<&str>,
        topic: Option<&str>,
    ) -> Result<i64, Error> {
        let Some(client) = self.client.as_mut() else { return Ok(0) };
        Ok(client.query_one(APPEND, &[&stream, &expected, events, &command, &topic])?.get(0))
    }

    fn version(&mut self, stream: &str) -> Result<i64, Error> {
        self.client.as_mut().map_or(Ok(0), |client| Ok(client.query_one(VERSION, &[&stream])?.get(0)))
    }

    fn wrong(&mut self, what: String) {
        self.journal.wrong.push(what);
    }

    pub(super) fn execute(&mut self, sql: &str) -> Result<(), Error> {
        self.client.as_mut().map_or(Ok(()), |client| client.batch_execute(sql))
    }
}
