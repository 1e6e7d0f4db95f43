//! The extension as a contender.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use event_outbox_lab::wait;
use postgres::Client;

use super::{Contender, Headers, Outbox};
use crate::events::{self, Load};
use crate::memory::{Looking, Memory};
use crate::processes::Work;
use crate::stage::{OURS, Stage};

const DEADLINE: Duration = Duration::from_secs(60);
/// Enough time for ten million deletions, in case they lag far behind the acknowledgements.
const SETTLE_DEADLINE: Duration = Duration::from_secs(300);

const INSERT: &str = "
INSERT INTO outbox.events (event_id, topic, key, payload, headers, content_type)
SELECT made_id(n)::uuid, $1, convert_to(made_key(n), 'UTF8'), convert_to(made_payload(n, $4, $5), 'UTF8'),
       made_headers(n)::json, 'application/json'
  FROM generate_series($2::bigint, $3::bigint) AS n";

const INSERT_ONE: &str = "
SELECT outbox.emit($1, made_payload($2)::jsonb, key => made_key($2), headers => made_headers($2)::jsonb)";

/// The relay, with either envelope.
pub struct Ours<'a> {
    stage: &'a Stage,
    client: Client,
    headers: Headers,
    memory: Arc<Memory>,
    looking: Option<Looking>,
}

impl<'a> Ours<'a> {
    /// The extension in the database `ours`. Notes the memory of its idle relay, which has not worked yet if the server
    /// has just started.
    pub fn new(stage: &'a Stage, headers: Headers) -> Result<Self> {
        let client = stage.connect(OURS)?;
        let mut ours = Self { stage, client, headers, memory: Arc::default(), looking: None };
        ours.enable()?;
        ours.until_idle()?;
        let relay = ours.pid()?;
        ours.memory.note_idle(relay);
        ours.disable()?;
        Ok(ours)
    }

    /// Shares the observation of memory with another contender that uses the same relay.
    pub fn sharing(mut self, memory: &Arc<Memory>) -> Self {
        self.memory = memory.clone();
        self
    }

    /// The observation of the relay's memory.
    pub fn memory(&self) -> Arc<Memory> {
        self.memory.clone()
    }

    /// Waits until the table is empty, and switches the relay off. Dead rows remain.
    pub fn rest(&mut self) -> Result<()> {
        self.until_empty()?;
        self.looking = None;
        self.disable()
    }

    /// Waits until the table is empty.
    pub fn until_empty(&mut self) -> Result<()> {
        let empty = "SELECT NOT EXISTS (SELECT FROM outbox.events)";
        wait::until_ok("outbox.events to be empty", SETTLE_DEADLINE, || {
            Ok(self.client.query_one(empty, &[])?.get::<_, bool>(0).then_some(()))
        })
    }

    /// The process id of the relay.
    pub fn pid(&mut self) -> Result<u32> {
        let pid: i32 = self.client.query_one("SELECT pid FROM outbox.status", &[])?.get(0);
        Ok(u32::try_from(pid)?)
    }

    /// Stores events by INSERT ... SELECT in one transaction.
    pub fn insert(client: &mut Client, load: &Load) -> Result<()> {
        let (bytes, filling) = (i32::try_from(load.bytes)?, events::filling(load.bytes));
        client.execute(INSERT, &[&load.topic, load.numbers.start(), load.numbers.end(), &bytes, &filling])?;
        Ok(())
    }

    /// Waits until no event is in flight.
    pub fn until_idle(&mut self) -> Result<()> {
        self.until("an idle relay", "state = 'idle'", SETTLE_DEADLINE)
    }

    fn until(&mut self, what: &str, condition: &str, deadline: Duration) -> Result<()> {
        let sql = format!("SELECT coalesce({condition}, false) FROM outbox.status");
        wait::until_ok(what, deadline, || {
            Ok(self.client.query_one(&sql, &[])?.get::<_, bool>(0).then_some(()))
        })
    }

    /// Switches the relay on, and returns at once.
    pub fn enable(&self) -> Result<()> {
        self.stage.configure("event_outbox.enabled", "on")
    }

    /// Switches the relay off, and waits until it is off.
    pub fn disable(&mut self) -> Result<()> {
        self.stage.configure("event_outbox.enabled", "off")?;
        self.until("a relay that is off", "state = 'disabled' AND in_flight = 0", DEADLINE)
    }
}

impl Contender for Ours<'_> {
    fn name(&self) -> &'static str {
        match self.headers {
            Headers::Own => "ours",
            Headers::CloudEvents => "ours_cloudevents",
        }
    }

    fn fill(&mut self, load: &Load) -> Result<()> {
        self.disable()?;
        Self::insert(&mut self.client, load)
    }

    fn open(&mut self) -> Result<()> {
        let envelope = match self.headers {
            Headers::Own => "none",
            Headers::CloudEvents => "cloudevents",
        };
        self.stage.server().set("event_outbox.envelope", envelope)?;
        let relay = self.pid()?;
        self.looking = Some(self.memory.look(relay));
        self.enable()
    }

    fn close(&mut self) -> Result<()> {
        self.rest()?;
        // Remove the dead rows too: their vacuum must not disturb another contender.
        Ok(self.client.batch_execute("TRUNCATE outbox.events")?)
    }
}

impl Outbox for Ours<'_> {
    fn database(&self) -> &'static str {
        OURS
    }

    fn insert_one(&self) -> &'static str {
        INSERT_ONE
    }

    fn relay(&mut self) -> Result<Work> {
        Ok(Work::Process(self.pid()?))
    }

    fn rest(&mut self) -> Result<()> {
        self.until_empty()
    }
}
