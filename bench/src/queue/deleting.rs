//! The queue table that most teams write: sessions delete the first rows that no other session has locked. It keeps no order
//! among sessions.

use anyhow::Result;
use postgres::Client;

use super::{HANDLER, Handler, OneStatement, Queue, Session};
use crate::events::{self, Load};
use crate::stage::{PEERS, Stage};

/// The table.
pub const TABLE: &str = "
CREATE TABLE IF NOT EXISTS queue (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key     bytea,
    data    jsonb,
    headers jsonb
)";

const INSERT: &str = "
INSERT INTO queue (key, data, headers)
SELECT convert_to(made_key(n), 'UTF8'), made_payload(n, $3, $4)::jsonb, made_headers(n)::jsonb
  FROM generate_series($1::bigint, $2::bigint) AS n";

const TAKE: &str = "
DELETE FROM queue
 WHERE id = ANY (ARRAY(SELECT id FROM queue ORDER BY id LIMIT $1::integer FOR UPDATE SKIP LOCKED))
RETURNING id, key, data, headers";

const HANDLE: &str = "
WITH taken AS (
    DELETE FROM queue
     WHERE id = ANY (ARRAY(SELECT id FROM queue ORDER BY id LIMIT $1::integer FOR UPDATE SKIP LOCKED))
    RETURNING id, key, data, headers)
SELECT array_agg(id) FILTER (WHERE handled(key, data, headers)) FROM taken";

/// The table.
pub struct Deleting<'a> {
    stage: &'a Stage,
    client: Client,
    handler: Handler,
}

impl<'a> Deleting<'a> {
    /// Creates the table in the database of the peers.
    pub fn new(stage: &'a Stage, handler: Handler) -> Result<Self> {
        let mut client = stage.connect(PEERS)?;
        client.batch_execute(TABLE)?;
        client.batch_execute(HANDLER)?;
        Ok(Self { stage, client, handler })
    }
}

impl Queue for Deleting<'_> {
    fn name(&self) -> &'static str {
        "skip_locked"
    }

    fn fill(&mut self, load: &Load) -> Result<()> {
        let (bytes, filling) = (i32::try_from(load.bytes)?, events::filling(load.bytes));
        self.client.execute(INSERT, &[load.numbers.start(), load.numbers.end(), &bytes, &filling])?;
        Ok(self.client.batch_execute("VACUUM ANALYZE queue")?)
    }

    fn session(&self) -> Result<Box<dyn Session>> {
        let statement = match self.handler {
            Handler::Client => TAKE,
            Handler::Function => HANDLE,
        };
        Ok(Box::new(OneStatement::new(self.stage.connect(PEERS)?, statement, self.handler)?))
    }

    fn empty(&mut self) -> Result<()> {
        Ok(self.client.batch_execute("TRUNCATE queue")?)
    }
}
