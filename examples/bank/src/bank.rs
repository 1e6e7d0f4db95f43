//! The bank's database, as a teller uses it: commands, accounts, statements.

use std::time::Duration;

use anyhow::{Context, Result};
use deadpool_postgres::Pool;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Error, Row};
use uuid::Uuid;

use crate::database::{self, MONEY};
use crate::stage::BANK;

/// How often a command is decided anew because another one came first.
const ATTEMPTS: u32 = 20;
/// The pause before the next attempt, times the number of the attempt.
const PAUSE: Duration = Duration::from_millis(3);
/// The event store's SQLSTATE for a stream that is no longer as it was read.
const WRONG_EXPECTED_VERSION: &str = "OE001";
/// The SQLSTATEs of the bank's rules begin so.
const RULE: &str = "BK";

/// The bank's database, as the role `teller`.
#[derive(Clone)]
pub struct Bank {
    pool: Pool,
}

/// An account with its owner and its balance.
pub struct Account {
    /// The number of the account.
    pub number: i64,
    /// The owner's name.
    pub name: String,
    /// The owner's country, by its code.
    pub country: String,
    /// The owner's address.
    pub email: String,
    /// What it may send in a day.
    pub daily_limit: String,
    /// Whether it sends nothing because of an alarm.
    pub is_in_review: bool,
    /// The balance of the projection; none before the first event.
    pub balance: Option<String>,
}

/// An event in the stream of an account.
pub struct Entry {
    /// Its version in the stream.
    pub version: i64,
    /// Its type.
    pub kind: String,
    /// Its data.
    pub data: serde_json::Value,
    /// The command that it comes from.
    pub command: String,
    /// When it was stored.
    pub time: String,
    /// The amount, with its sign.
    pub amount: String,
    /// The balance after it.
    pub balance: String,
}

impl Entry {
    /// Its type in two parts, between which a line may break.
    pub fn kind_parts(&self) -> (&str, &str) {
        self.kind.split_at(self.kind.find('.').map_or(0, |dot| dot + 1))
    }

    /// What the transfer was for, if that was said.
    pub fn reference(&self) -> Option<&str> {
        self.data.get("reference")?.as_str().filter(|reference| !reference.is_empty())
    }
}

/// A transfer, as the event store has it.
pub struct Sent {
    /// The id of the event.
    pub event_id: Uuid,
    /// The command that it comes from.
    pub command: Option<Uuid>,
    /// The account that sends.
    pub source: i64,
    /// The account that receives.
    pub target: i64,
    /// How much.
    pub amount: String,
    /// What for.
    pub reference: String,
    /// When it was stored, to read.
    pub time: String,
    /// When it was stored, in milliseconds since 1970.
    pub stored_at: f64,
}

/// A new account and its owner.
pub struct NewAccount {
    /// The owner's name.
    pub name: String,
    /// The owner's address.
    pub email: String,
    /// The owner's country.
    pub country: String,
    /// What it may send in a day.
    pub daily_limit: String,
    /// The first deposit.
    pub deposit: String,
}

/// A transfer that somebody wants.
#[derive(Clone)]
pub struct Order {
    /// Identifies the command: the same one happens once.
    pub command: Uuid,
    /// The account that sends.
    pub source: i64,
    /// The account that receives.
    pub target: i64,
    /// How much, as a number in text.
    pub amount: String,
    /// What for.
    pub reference: String,
}

/// Why a command did not happen.
pub enum Refusal {
    /// A rule of the bank, in a sentence for the customer.
    Rule(String),
    /// Something else.
    Failure(anyhow::Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        match error.as_db_error() {
            Some(refused) if refused.code().code().starts_with(RULE) => Self::Rule(refused.message().into()),
            Some(refused) if *refused.code() == SqlState::CHECK_VIOLATION => {
                Self::Rule(format!("That is not possible: {}.", refused.message()))
            }
            _ => Self::Failure(error.into()),
        }
    }
}

impl From<deadpool_postgres::PoolError> for Refusal {
    fn from(error: deadpool_postgres::PoolError) -> Self {
        Self::Failure(error.into())
    }
}

impl Bank {
    /// The bank on the server with this port.
    pub fn new(port: u16) -> Result<Self> {
        Ok(Self { pool: database::pool(port, BANK, "teller")? })
    }

    /// Opens an account with a first deposit, both or neither; returns its number.
    pub async fn open(&self, command: Uuid, new: &NewAccount) -> Result<i64, Refusal> {
        let mut client = self.pool.get().await?;
        let transaction = client.transaction().await?;
        let row = transaction
            .query_one(
                "SELECT account.open($1, $2, $3, $4::text::numeric)",
                &[&new.name, &new.email, &new.country, &new.daily_limit],
            )
            .await?;
        let number: i64 = row.get(0);
        transaction
            .query_one(
                "SELECT transactions.deposit($1, $2, $3::text::numeric)",
                &[&command, &number, &new.deposit],
            )
            .await?;
        transaction.commit().await?;
        Ok(number)
    }

    /// Transfers money. If another command came first, it is decided anew. Returns the number of attempts.
    pub async fn transfer(&self, order: &Order) -> Result<u32, Refusal> {
        let client = self.pool.get().await?;
        let mut attempt = 1;
        loop {
            let outcome = client
                .query_one(
                    "SELECT transactions.transfer($1, $2, $3, $4::text::numeric, $5)",
                    &[&order.command, &order.source, &order.target, &order.amount, &order.reference],
                )
                .await;
            match outcome {
                Ok(_) => return Ok(attempt),
                Err(error) if attempt < ATTEMPTS && is_conflict(&error) => {
                    tokio::time::sleep(PAUSE * attempt).await;
                    attempt += 1;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Changes the address of an account's owner.
    pub async fn change_email(&self, number: i64, email: &str) -> Result<(), Refusal> {
        let client = self.pool.get().await?;
        client.query_one("SELECT account.change_email($1, $2)", &[&number, &email]).await?;
        Ok(())
    }

    /// Lets an account send money again.
    pub async fn end_review(&self, number: i64) -> Result<(), Refusal> {
        let client = self.pool.get().await?;
        client.query_one("SELECT account.end_review($1)", &[&number]).await?;
        Ok(())
    }

    /// All accounts, with the balances of the projection.
    pub async fn accounts(&self) -> Result<Vec<Account>> {
        let sql =
            "SELECT a.number, a.name, a.country, a.email, to_char(a.daily_limit, $1), a.state <> 'open',
                          to_char(b.balance, $1)
                     FROM account.accounts AS a LEFT JOIN transactions.balance AS b ON b.number = a.number
                    ORDER BY a.number";
        let rows = self.pool.get().await?.query(sql, &[&MONEY]).await?;
        Ok(rows.iter().map(account).collect())
    }

    /// What an account has sent today.
    pub async fn sent_today(&self, number: i64) -> Result<String> {
        let sql = "SELECT to_char(transactions.sent_today($1), $2)";
        Ok(self.pool.get().await?.query_one(sql, &[&number, &MONEY]).await?.get(0))
    }

    /// All events of an account, the newest first.
    pub async fn statement(&self, number: i64) -> Result<Vec<Entry>> {
        let sql = "SELECT version, type, data, coalesce(command::text, ''), to_char(recorded_at, 'FMDD Mon HH24:MI:SS'),
                          to_char((data->>'amount')::numeric, $2), to_char(balance, $2)
                     FROM transactions.statement($1)";
        let rows = self.pool.get().await?.query(sql, &[&number, &MONEY]).await?;
        Ok(rows.iter().map(entry).collect())
    }

    /// The newest transfers.
    pub async fn recent(&self, limit: i64) -> Result<Vec<Sent>> {
        let sql = "SELECT event_id, command, (data->>'from')::bigint, (data->>'to')::bigint,
                          to_char((data->>'amount')::numeric, $2), coalesce(data->>'reference', ''),
                          to_char(recorded_at, 'HH24:MI:SS'), extract(epoch FROM recorded_at)::float8 * 1000
                     FROM transactions.recent_transfers($1)";
        let rows = self.pool.get().await?.query(sql, &[&limit, &MONEY]).await?;
        Ok(rows.iter().map(sent).collect())
    }

    /// How many transfers there were, and of how much money.
    pub async fn totals(&self) -> Result<(i64, String)> {
        let sql = "SELECT transfers, to_char(money, $1) FROM transactions.totals()";
        let row = self.pool.get().await?.query_one(sql, &[&MONEY]).await.context("totals of the bank")?;
        Ok((row.get(0), row.get(1)))
    }
}

/// Whether the command may succeed if it is decided anew.
fn is_conflict(error: &Error) -> bool {
    let deadlock = [SqlState::T_R_DEADLOCK_DETECTED, SqlState::T_R_SERIALIZATION_FAILURE];
    error.code().is_some_and(|code| code.code() == WRONG_EXPECTED_VERSION || deadlock.contains(code))
}

fn account(row: &Row) -> Account {
    Account {
        number: row.get(0),
        name: row.get(1),
        country: row.get(2),
        email: row.get(3),
        daily_limit: row.get(4),
        is_in_review: row.get(5),
        balance: row.get(6),
    }
}

fn entry(row: &Row) -> Entry {
    let kind: String = row.get(1);
    let sign = if kind == "transfer.sent" { "−" } else { "+" };
    let amount: Option<String> = row.get(5);
    Entry {
        version: row.get(0),
        kind,
        data: row.get(2),
        command: row.get(3),
        time: row.get(4),
        amount: amount.map_or_else(String::new, |amount| format!("{sign}{amount}")),
        balance: row.get(6),
    }
}

fn sent(row: &Row) -> Sent {
    Sent {
        event_id: row.get(0),
        command: row.get(1),
        source: row.get(2),
        target: row.get(3),
        amount: row.get(4),
        reference: row.get(5),
        time: row.get(6),
        stored_at: row.get(7),
    }
}
