//! The relay of the bank's database, as an operator sees and stops it.

use std::collections::HashMap;

use anyhow::{Context, Result};
use deadpool_postgres::Pool;
use uuid::Uuid;

use crate::database;
use crate::stage::BANK;

/// The outbox of the bank's database, as the role `operator`.
#[derive(Clone)]
pub struct Operations {
    pool: Pool,
}

/// How the relay is.
pub struct Relay {
    /// What it does, in PostgreSQL's words.
    pub state: String,
    /// Its connection to Kafka.
    pub connection: String,
    /// Whether publishing was stopped.
    pub is_paused: bool,
    /// Events that wait in the outbox.
    pub waiting: i64,
}

impl Operations {
    /// The outbox on the server with this port.
    pub fn new(port: u16) -> Result<Self> {
        Ok(Self { pool: database::pool(port, BANK, "operator")? })
    }

    /// How the relay is.
    pub async fn relay(&self) -> Result<Relay> {
        let sql = "SELECT s.state, s.connection, EXISTS (SELECT FROM outbox.paused), (SELECT count(*) FROM outbox.pending)
                     FROM outbox.status AS s";
        let row = self.pool.get().await?.query_one(sql, &[]).await.context("state of the relay")?;
        Ok(Relay { state: row.get(0), connection: row.get(1), is_paused: row.get(2), waiting: row.get(3) })
    }

    /// Those of these events that wait in the outbox, with the error of the last attempt.
    pub async fn waiting(&self, ids: &[Uuid]) -> Result<HashMap<Uuid, Option<String>>> {
        let sql = "SELECT event_id, last_error FROM outbox.pending WHERE event_id = ANY ($1)";
        let rows = self.pool.get().await?.query(sql, &[&ids]).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Stops publishing, or goes on.
    pub async fn switch(&self, on: bool) -> Result<()> {
        let sql = if on { "SELECT outbox.resume()" } else { "SELECT outbox.pause('by the operator')" };
        self.pool.get().await?.execute(sql, &[]).await?;
        Ok(())
    }
}
