//! Those who are compared. Each is given the same events, and told when to publish.

pub mod bare;
pub mod connect;
pub mod debezium;
pub mod limit;
pub mod ours;
pub mod polling;
mod producer;

use anyhow::Result;

use crate::events::Load;

/// What is written around each event.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Headers {
    /// The events' own two: what all contenders send.
    Own,
    /// Those and the CloudEvents attributes: the extension's default.
    CloudEvents,
}

/// One way from an outbox to Kafka.
pub trait Contender {
    /// Its name in figures and plots.
    fn name(&self) -> &'static str;

    /// Stores the events, while nothing publishes them.
    fn fill(&mut self, load: &Load) -> Result<()>;

    /// Begins to publish; returns at once.
    fn open(&mut self) -> Result<()>;

    /// Ends publishing when all is done, removes what is left of the events.
    fn close(&mut self) -> Result<()>;

    /// What it says of itself, for the message when it fails.
    fn trouble(&self) -> String {
        String::new()
    }
}

/// A contender whose events are rows.
pub trait Outbox: Contender {
    /// Where the table is.
    fn database(&self) -> &'static str;

    /// A statement that stores one event: `$1` its topic, `$2` its number.
    fn insert_one(&self) -> &'static str;
}
