//! `inbox.receive()`. The events come from a topic.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use event_outbox_lab::wait;
use postgres::{Client, Statement};

use super::{HANDLER, Handler, OneStatement, Queue, Session, backend_of, ids};
use crate::events::Load;
use crate::reader::Reader;
use crate::reader::ours::Inbox;
use crate::stage::{OURS, Stage};

const DEADLINE: Duration = Duration::from_secs(300);

const RECEIVE: &str = "SELECT position, key, data, headers FROM inbox.receive('bench', $1)";
const HANDLE: &str = "
SELECT array_agg(position) FILTER (WHERE handled(key, data, headers)) FROM inbox.receive('bench', $1)";

/// What events that take some time leave behind.
const WORKED: &str = "DROP TABLE IF EXISTS worked; CREATE TABLE worked (id bigint PRIMARY KEY)";
const INSERT: &str = "INSERT INTO worked (id) SELECT unnest($1::bigint[])";

/// The inbox, with a subscription to a topic that has the events.
pub struct Receiving<'a> {
    stage: &'a Stage,
    inbox: Inbox,
    topic: &'static str,
    events: u64,
    handler: Handler,
    /// How long an event takes.
    work: Option<Duration>,
}

impl<'a> Receiving<'a> {
    /// The contender. The topic must have this many events.
    pub fn new(stage: &'a Stage, topic: &'static str, events: u64) -> Result<Self> {
        stage.connect(OURS)?.batch_execute(HANDLER)?;
        Ok(Self { stage, inbox: Inbox::new(stage)?, topic, events, handler: Handler::Client, work: None })
    }

    /// With this handler.
    pub fn handled_by(self, handler: Handler) -> Self {
        Self { handler, ..self }
    }

    /// Each event takes this long.
    pub fn working(self, work: Duration) -> Self {
        Self { work: Some(work), ..self }
    }
}

impl Queue for Receiving<'_> {
    fn name(&self) -> &'static str {
        "ours"
    }

    fn fill(&mut self, load: &Load) -> Result<()> {
        ensure!(load.count() <= self.events, "the topic has only {} events", self.events);
        if self.work.is_some() {
            self.stage.connect(OURS)?.batch_execute(WORKED)?;
        }
        self.inbox.open(self.topic)?;
        let events = self.events;
        wait::until_ok("the events to be stored", DEADLINE, || {
            Ok((self.inbox.stored()? >= events).then_some(()))
        })
    }

    fn session(&self) -> Result<Box<dyn Session>> {
        let mut client = self.stage.connect(OURS)?;
        if let Some(work) = self.work {
            let backend = backend_of(&mut client)?;
            let (receive, insert) = (client.prepare(RECEIVE)?, client.prepare(INSERT)?);
            return Ok(Box::new(Working { client, receive, insert, work, backend }));
        }
        let statement = match self.handler {
            Handler::Client => RECEIVE,
            Handler::Function => HANDLE,
        };
        Ok(Box::new(OneStatement::new(client, statement, self.handler).context("inbox.receive")?))
    }

    fn empty(&mut self) -> Result<()> {
        self.inbox.end()
    }
}

/// A session whose events take some time, and leave a row each in the transaction that has received them.
struct Working {
    client: Client,
    receive: Statement,
    insert: Statement,
    work: Duration,
    backend: u32,
}

impl Session for Working {
    fn take(&mut self, most: i32) -> Result<Vec<i64>> {
        let mut transaction = self.client.transaction()?;
        let ids = ids(Handler::Client, &transaction.query(&self.receive, &[&most])?);
        ids.iter().for_each(|_| sleep(self.work));
        if !ids.is_empty() {
            transaction.execute(&self.insert, &[&ids])?;
        }
        transaction.commit()?;
        Ok(ids)
    }

    fn backend(&self) -> u32 {
        self.backend
    }
}
