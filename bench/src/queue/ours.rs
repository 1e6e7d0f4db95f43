//! `inbox.receive()`. The events come from a topic.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use event_outbox_lab::wait;

use super::{OneStatement, Queue, Session};
use crate::events::Load;
use crate::reader::Reader;
use crate::reader::ours::Inbox;
use crate::stage::{OURS, Stage};

const DEADLINE: Duration = Duration::from_secs(300);

const RECEIVE: &str = "SELECT position, key, data, headers FROM inbox.receive('bench', $1)";

/// The inbox, with a subscription to a topic that has the events.
pub struct Receiving<'a> {
    stage: &'a Stage,
    inbox: Inbox,
    topic: &'static str,
    events: u64,
}

impl<'a> Receiving<'a> {
    /// The contender. The topic must have this many events.
    pub fn new(stage: &'a Stage, topic: &'static str, events: u64) -> Result<Self> {
        Ok(Self { stage, inbox: Inbox::new(stage)?, topic, events })
    }
}

impl Queue for Receiving<'_> {
    fn name(&self) -> &'static str {
        "ours"
    }

    fn fill(&mut self, load: &Load) -> Result<()> {
        ensure!(load.count() <= self.events, "the topic has only {} events", self.events);
        self.inbox.open(self.topic)?;
        let events = self.events;
        wait::until_ok("the events to be stored", DEADLINE, || {
            Ok((self.inbox.stored()? >= events).then_some(()))
        })
    }

    fn session(&self) -> Result<Box<dyn Session>> {
        Ok(Box::new(OneStatement::new(self.stage.connect(OURS)?, RECEIVE).context("inbox.receive")?))
    }

    fn empty(&mut self) -> Result<()> {
        self.inbox.end()
    }
}
