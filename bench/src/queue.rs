//! The contenders from which several sessions take events, each exactly once.

pub mod deleting;
pub mod ours;
pub mod pgmq;

use anyhow::Result;
use postgres::{Client, Statement};

use crate::events::Load;

/// A store of events in the database.
pub trait Queue {
    /// Its name in figures.
    fn name(&self) -> &'static str;

    /// Stores the events.
    fn fill(&mut self, load: &Load) -> Result<()>;

    /// A session that takes some of them.
    fn session(&self) -> Result<Box<dyn Session>>;

    /// Removes what is left.
    fn empty(&mut self) -> Result<()>;
}

/// A session that takes events.
pub trait Session: Send {
    /// Takes up to `most` events in a transaction of its own. Returns what identifies them.
    fn take(&mut self, most: i32) -> Result<Vec<i64>>;
}

/// A session that takes events by one statement: `$1` is how many at most. Its first column identifies the event.
struct OneStatement {
    client: Client,
    statement: Statement,
}

impl OneStatement {
    fn new(mut client: Client, statement: &str) -> Result<Self> {
        let statement = client.prepare(statement)?;
        Ok(Self { client, statement })
    }
}

impl Session for OneStatement {
    fn take(&mut self, most: i32) -> Result<Vec<i64>> {
        Ok(self.client.query(&self.statement, &[&most])?.iter().map(|row| row.get(0)).collect())
    }
}
