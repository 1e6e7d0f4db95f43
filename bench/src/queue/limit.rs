//! The limit: sessions read rows of a table, and insert one row that says how far. They share them out in the benchmark itself, so
//! this is no queue; but no queue can do less.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use anyhow::Result;
use postgres::{Client, Statement};

use super::deleting::{Deleting, TABLE};
use super::{HANDLER, Handler, Queue, Session, backend_of, ids};
use crate::events::Load;
use crate::stage::{PEERS, Stage};

const PROGRESS: &str = "DROP TABLE IF EXISTS read_upto; CREATE TABLE read_upto (upto bigint PRIMARY KEY)";
const READ: &str = "
WITH done AS (INSERT INTO read_upto (upto) VALUES ($1 + $2::bigint))
SELECT id, key, data, headers FROM queue WHERE id > $1 AND id <= $1 + $2 ORDER BY id";
const HANDLE: &str = "
WITH done AS (INSERT INTO read_upto (upto) VALUES ($1 + $2::bigint))
SELECT array_agg(id) FILTER (WHERE handled(key, data, headers)) FROM queue WHERE id > $1 AND id <= $1 + $2";

/// The same table as that of the sessions that delete.
pub struct Limit<'a> {
    stage: &'a Stage,
    table: Deleting<'a>,
    client: Client,
    handler: Handler,
    next: Arc<AtomicI64>,
}

impl<'a> Limit<'a> {
    /// Creates the tables in the database of the peers.
    pub fn new(stage: &'a Stage, handler: Handler) -> Result<Self> {
        let mut client = stage.connect(PEERS)?;
        client.batch_execute(TABLE)?;
        client.batch_execute(HANDLER)?;
        Ok(Self { stage, table: Deleting::new(stage, handler)?, client, handler, next: Arc::default() })
    }
}

impl Queue for Limit<'_> {
    fn name(&self) -> &'static str {
        "limit"
    }

    fn fill(&mut self, load: &Load) -> Result<()> {
        self.table.fill(load)?;
        self.client.batch_execute(PROGRESS)?;
        let first: i64 = self.client.query_one("SELECT min(id) FROM queue", &[])?.get(0);
        self.next.store(first - 1, Ordering::Relaxed);
        Ok(())
    }

    fn session(&self) -> Result<Box<dyn Session>> {
        let mut client = self.stage.connect(PEERS)?;
        let backend = backend_of(&mut client)?;
        let statement = client.prepare(match self.handler {
            Handler::Client => READ,
            Handler::Function => HANDLE,
        })?;
        Ok(Box::new(Reading { client, statement, handler: self.handler, next: self.next.clone(), backend }))
    }

    fn empty(&mut self) -> Result<()> {
        self.table.empty()
    }
}

struct Reading {
    client: Client,
    statement: Statement,
    handler: Handler,
    next: Arc<AtomicI64>,
    backend: u32,
}

impl Session for Reading {
    fn take(&mut self, most: i32) -> Result<Vec<i64>> {
        let most = i64::from(most);
        let after = self.next.fetch_add(most, Ordering::Relaxed);
        Ok(ids(self.handler, &self.client.query(&self.statement, &[&after, &most])?))
    }

    fn backend(&self) -> u32 {
        self.backend
    }
}
