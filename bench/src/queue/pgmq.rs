//! pgmq, by its own SQL, which its crate ships: sessions read messages, and archive or delete them in the same transaction.

use std::fs;

use anyhow::{Context, Result};
use postgres::{Client, Statement};

use super::{HANDLER, Handler, Queue, Session, backend_of, ids};
use crate::events::{self, Load};
use crate::stage::{PEERS, Stage};

const FILL: &str = "
SELECT count(*) FROM pgmq.send_batch('bench',
    ARRAY(SELECT made_payload(n, $3, $4)::jsonb FROM generate_series($1::bigint, $2::bigint) AS n),
    ARRAY(SELECT made_headers(n)::jsonb FROM generate_series($1::bigint, $2::bigint) AS n))";

/// The messages stay hidden for 30 seconds, as in its documentation.
const READ: &str = "SELECT msg_id, message, headers FROM pgmq.read('bench', 30, $1)";
const HANDLE: &str = "
SELECT array_agg(msg_id) FILTER (WHERE handled(NULL, message, headers)) FROM pgmq.read('bench', 30, $1)";
const ARCHIVE: &str = "SELECT pgmq.archive('bench', $1::bigint[])";
const DELETE: &str = "SELECT pgmq.delete('bench', $1::bigint[])";

/// What becomes of messages that were handled.
#[derive(Clone, Copy)]
pub enum Handled {
    /// They are moved to the archive.
    Archived,
    /// They are deleted.
    Deleted,
}

/// The queue.
pub struct Pgmq<'a> {
    stage: &'a Stage,
    client: Client,
    handler: Handler,
    handled: Handled,
}

impl<'a> Pgmq<'a> {
    /// Creates its schema and a queue. `None` if `scripts/bench` did not find its SQL.
    pub fn new(stage: &'a Stage, handler: Handler, handled: Handled) -> Result<Option<Self>> {
        let Some(file) = std::env::var_os("EVENT_OUTBOX_PGMQ_SQL") else { return Ok(None) };
        let mut client = stage.connect(PEERS)?;
        if client.query_opt("SELECT FROM pg_namespace WHERE nspname = 'pgmq'", &[])?.is_none() {
            let sql = fs::read_to_string(&file).with_context(|| file.to_string_lossy().into_owned())?;
            client.batch_execute(&sql).context("the SQL of pgmq")?;
            client.batch_execute("SELECT pgmq.create('bench')")?;
        }
        client.batch_execute(HANDLER)?;
        Ok(Some(Self { stage, client, handler, handled }))
    }
}

impl Queue for Pgmq<'_> {
    fn name(&self) -> &'static str {
        "pgmq"
    }

    fn fill(&mut self, load: &Load) -> Result<()> {
        let (bytes, filling) = (i32::try_from(load.bytes)?, events::filling(load.bytes));
        self.client.query_one(FILL, &[load.numbers.start(), load.numbers.end(), &bytes, &filling])?;
        Ok(self.client.batch_execute("VACUUM ANALYZE pgmq.q_bench")?)
    }

    fn session(&self) -> Result<Box<dyn Session>> {
        let mut client = self.stage.connect(PEERS)?;
        let backend = backend_of(&mut client)?;
        let read = client.prepare(match self.handler {
            Handler::Client => READ,
            Handler::Function => HANDLE,
        })?;
        let finish = client.prepare(match self.handled {
            Handled::Archived => ARCHIVE,
            Handled::Deleted => DELETE,
        })?;
        Ok(Box::new(Reading { client, read, finish, handler: self.handler, backend }))
    }

    fn empty(&mut self) -> Result<()> {
        Ok(self.client.batch_execute("TRUNCATE pgmq.q_bench, pgmq.a_bench")?)
    }
}

struct Reading {
    client: Client,
    read: Statement,
    finish: Statement,
    handler: Handler,
    backend: u32,
}

impl Session for Reading {
    fn take(&mut self, most: i32) -> Result<Vec<i64>> {
        let mut transaction = self.client.transaction()?;
        let ids = ids(self.handler, &transaction.query(&self.read, &[&most])?);
        if !ids.is_empty() {
            transaction.query(&self.finish, &[&ids])?;
        }
        transaction.commit()?;
        Ok(ids)
    }

    fn backend(&self) -> u32 {
        self.backend
    }
}
