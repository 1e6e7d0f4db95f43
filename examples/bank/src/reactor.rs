//! The reactor's database: what it has made of the bank's events, and what operators do with it.

use std::collections::HashMap;

use anyhow::{Context, Result};
use deadpool_postgres::Pool;
use uuid::Uuid;

use crate::database::{self, MONEY};
use crate::stage::REACTOR;

/// Suspicious transfers that are shown.
const FLAGGED: i64 = 20;
/// Dead letters that are shown.
const DEAD: i64 = 50;

/// The reactor's database, as the role `operator`.
#[derive(Clone)]
pub struct Reactor {
    pool: Pool,
}

/// What the reactor knows of a transfer.
pub struct Checked {
    /// Its place in the inbox.
    pub position: i64,
    /// When the broker had it, in milliseconds since 1970.
    pub produced_at: f64,
    /// When the reactor had checked it.
    pub checked_at: f64,
    /// What is suspicious.
    pub findings: Vec<String>,
}

/// A suspicious transfer.
pub struct Flagged {
    /// The account that sent.
    pub source: i64,
    /// The account that received.
    pub target: i64,
    /// The name of the owner, by the reactor's own copy.
    pub owner: String,
    /// How much.
    pub amount: String,
    /// When.
    pub time: String,
    /// What is suspicious.
    pub findings: Vec<String>,
}

/// A transfer that could not be checked.
pub struct DeadLetter {
    /// The id of the event.
    pub event_id: Option<Uuid>,
    /// The account that sent.
    pub source: i64,
    /// How much.
    pub amount: String,
    /// Why.
    pub error: String,
    /// How often it was tried.
    pub attempts: i32,
    /// When it was given up.
    pub time: String,
    /// The country whose risk is missing, if that is why.
    pub country: Option<String>,
}

/// An owner in the reactor's copy.
pub struct Owner {
    /// The name.
    pub name: String,
    /// The country, by its code.
    pub country: String,
    /// The risk of that country, if it is known.
    pub risk: Option<String>,
}

/// How the subscription to transfers, and the copy of the owners, are.
pub struct State {
    /// Whether nothing is checked at present.
    pub is_paused: bool,
    /// Events that wait for another attempt, and later ones of their accounts.
    pub retries: i64,
    /// Dead letters.
    pub dead_letters: i64,
    /// Transfers that were checked, and not forgotten since.
    pub checked: i64,
    /// Of how much money.
    pub money: String,
    /// The state of the copy.
    pub copy_state: String,
    /// Whether the copy is complete.
    pub copy_is_ready: bool,
    /// Half of the last transfers took no longer than this from the store to the check, in milliseconds.
    pub median: Option<f64>,
    /// And 99 of 100.
    pub slowest: Option<f64>,
}

impl Reactor {
    /// The reactor on the server with this port.
    pub fn new(port: u16) -> Result<Self> {
        Ok(Self { pool: database::pool(port, REACTOR, "operator")? })
    }

    /// What the reactor knows of these transfers.
    pub async fn checked(&self, ids: &[Uuid]) -> Result<HashMap<Uuid, Checked>> {
        let sql = "SELECT event_id, position, extract(epoch FROM produced_at)::float8 * 1000,
                          extract(epoch FROM checked_at)::float8 * 1000, findings
                     FROM reactor.transfer WHERE event_id = ANY ($1)";
        let rows = self.pool.get().await?.query(sql, &[&ids]).await?;
        let checked = rows.iter().map(|row| {
            let found = Checked {
                position: row.get(1),
                produced_at: row.get(2),
                checked_at: row.get(3),
                findings: row.get(4),
            };
            (row.get(0), found)
        });
        Ok(checked.collect())
    }

    /// The newest suspicious transfers.
    pub async fn flagged(&self) -> Result<Vec<Flagged>> {
        let sql = "SELECT t.source, t.target, coalesce(o.name, '?'), to_char(t.amount, $2),
                          to_char(t.sent_at, 'HH24:MI:SS'), t.findings
                     FROM reactor.transfer AS t
                          LEFT JOIN reactor.account AS a ON a.number = t.source
                          LEFT JOIN reactor.owner AS o ON o.id = a.owner_id
                    WHERE t.findings <> '{}' ORDER BY t.sent_at DESC LIMIT $1";
        let rows = self.pool.get().await?.query(sql, &[&FLAGGED, &MONEY]).await?;
        let flagged = rows.iter().map(|row| Flagged {
            source: row.get(0),
            target: row.get(1),
            owner: row.get(2),
            amount: row.get(3),
            time: row.get(4),
            findings: row.get(5),
        });
        Ok(flagged.collect())
    }

    /// The oldest dead letters.
    pub async fn dead_letters(&self) -> Result<Vec<DeadLetter>> {
        let sql = "SELECT (d.data->>'transfer')::uuid, (d.data->>'from')::bigint,
                          to_char((d.data->>'amount')::numeric, $2), d.last_error, d.attempts,
                          to_char(d.died_at, 'HH24:MI:SS'),
                          substring(d.last_error FROM 'no risk is known for country ([A-Z]{2})')
                     FROM reactor.dead_letter AS d ORDER BY d.id LIMIT $1";
        let rows = self.pool.get().await?.query(sql, &[&DEAD, &MONEY]).await?;
        let dead = rows.iter().map(|row| DeadLetter {
            event_id: row.get(0),
            source: row.get(1),
            amount: row.get(2),
            error: row.get(3),
            attempts: row.get(4),
            time: row.get(5),
            country: row.get(6),
        });
        Ok(dead.collect())
    }

    /// The copy of the owners.
    pub async fn owners(&self) -> Result<Vec<Owner>> {
        let sql = "SELECT o.name, o.country, c.risk
                     FROM reactor.owner AS o LEFT JOIN reactor.country AS c ON c.code = o.country ORDER BY o.id";
        let rows = self.pool.get().await?.query(sql, &[]).await?;
        Ok(rows.iter().map(|row| Owner { name: row.get(0), country: row.get(1), risk: row.get(2) }).collect())
    }

    /// How the reactor is.
    pub async fn state(&self) -> Result<State> {
        let sql = "SELECT w.paused_at IS NOT NULL, w.retries, w.dead_letters, t.transfers, t.money, c.state, c.ready,
                          l.median, l.slowest
                     FROM reactor.waiting AS w
                          CROSS JOIN reactor.copy AS c
                          CROSS JOIN (SELECT count(*) AS transfers, to_char(coalesce(sum(amount), 0), $1) AS money
                                        FROM reactor.transfer) AS t
                          CROSS JOIN (SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY took) AS median,
                                             percentile_cont(0.99) WITHIN GROUP (ORDER BY took) AS slowest
                                        FROM (SELECT extract(epoch FROM checked_at - sent_at)::float8 * 1000 AS took
                                                FROM reactor.transfer ORDER BY sent_at DESC LIMIT 200) AS n) AS l";
        let row = self.pool.get().await?.query_one(sql, &[&MONEY]).await.context("state of the reactor")?;
        Ok(State {
            is_paused: row.get(0),
            retries: row.get(1),
            dead_letters: row.get(2),
            checked: row.get(3),
            money: row.get(4),
            copy_state: row.get(5),
            copy_is_ready: row.get(6),
            median: row.get(7),
            slowest: row.get(8),
        })
    }

    /// Forgets what was made of events, and reads them again from the beginning.
    pub async fn rebuild(&self) -> Result<()> {
        self.call("SELECT reactor.rebuild()").await
    }

    /// Stops checking transfers, or goes on.
    pub async fn switch(&self, on: bool) -> Result<()> {
        self.call(if on { "SELECT reactor.resume()" } else { "SELECT reactor.pause()" }).await
    }

    /// Has all dead letters handled again.
    pub async fn redrive(&self) -> Result<()> {
        self.call("SELECT reactor.redrive()").await
    }

    /// Says how risky a country is.
    pub async fn set_risk(&self, country: &str, risk: &str) -> Result<()> {
        self.pool.get().await?.execute("SELECT reactor.set_risk($1, $2)", &[&country, &risk]).await?;
        Ok(())
    }

    async fn call(&self, sql: &str) -> Result<()> {
        self.pool.get().await?.execute(sql, &[]).await?;
        Ok(())
    }
}
