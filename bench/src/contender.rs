//! The contenders of the comparison. Each gets the same events, and is told when to publish.

pub mod bare;
pub mod debezium;
pub mod limit;
pub mod ours;
pub mod polling;
pub mod producer;

use anyhow::Result;

use crate::events::Load;
use crate::processes::Work;

/// The headers of each event.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Headers {
    /// The event's own two headers, which all contenders send.
    Own,
    /// The event's own headers and the CloudEvents attributes: the extension's default.
    CloudEvents,
}

/// An implementation of an outbox with its relay to Kafka.
pub trait Contender {
    /// Its name in figures and plots.
    fn name(&self) -> &'static str;

    /// Stores the events without publishing them.
    fn fill(&mut self, load: &Load) -> Result<()>;

    /// Starts publishing, and returns at once.
    fn open(&mut self) -> Result<()>;

    /// Stops publishing once all events are published, and removes what remains of them.
    fn close(&mut self) -> Result<()>;

    /// A description of its state, for the message when it fails.
    fn trouble(&self) -> String {
        String::new()
    }
}

/// A contender whose events are table rows.
pub trait Outbox: Contender {
    /// The database that has the table.
    fn database(&self) -> &'static str;

    /// A statement that stores one event. `$1` is its topic, `$2` its number.
    fn insert_one(&self) -> &'static str;

    /// What carries the events to Kafka, once the first one is there.
    fn relay(&mut self) -> Result<Work>;

    /// Waits until nothing is left to do for events that are in Kafka.
    fn rest(&mut self) -> Result<()> {
        Ok(())
    }
}
