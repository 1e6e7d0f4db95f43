//! The contenders from which several sessions take events, each exactly once.

pub mod deleting;
pub mod group;
pub mod limit;
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

    /// The process of the server that serves it.
    fn backend(&self) -> u32;
}

/// Who handles what a session takes. Neither does anything with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handler {
    /// The client, which fetches the events.
    Client,
    /// A function in the database.
    Function,
}

/// The function. It takes the key, the data and the headers.
pub const HANDLER: &str = "
CREATE OR REPLACE FUNCTION handled(key bytea, data jsonb, headers jsonb) RETURNS boolean LANGUAGE plpgsql AS
    $$ BEGIN RETURN true; END $$";

/// The events in a row or in rows: what identifies them is in the first column, alone or all in an array.
fn ids(handler: Handler, rows: &[postgres::Row]) -> Vec<i64> {
    match handler {
        Handler::Client => rows.iter().map(|row| row.get(0)).collect(),
        Handler::Function => {
            rows.iter().filter_map(|row| row.get::<_, Option<Vec<i64>>>(0)).flatten().collect()
        }
    }
}

/// The process of the server that serves a client.
fn backend_of(client: &mut Client) -> Result<u32> {
    Ok(u32::try_from(client.query_one("SELECT pg_backend_pid()", &[])?.get::<_, i32>(0))?)
}

/// A session that takes events by one statement: `$1` is how many at most. Its first column identifies the event.
struct OneStatement {
    client: Client,
    statement: Statement,
    handler: Handler,
    backend: u32,
}

impl OneStatement {
    fn new(mut client: Client, statement: &str, handler: Handler) -> Result<Self> {
        let backend = backend_of(&mut client)?;
        let statement = client.prepare(statement)?;
        Ok(Self { client, statement, handler, backend })
    }
}

impl Session for OneStatement {
    fn take(&mut self, most: i32) -> Result<Vec<i64>> {
        Ok(ids(self.handler, &self.client.query(&self.statement, &[&most])?))
    }

    fn backend(&self) -> u32 {
        self.backend
    }
}
