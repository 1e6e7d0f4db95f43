//! Many transfers at once, for something to look at.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use anyhow::{Result, ensure};
use uuid::Uuid;

use crate::bank::{Bank, Order, Refusal};

/// Transfers of one go.
const TRANSFERS: u32 = 200;
/// Tellers that make them at the same time.
const TELLERS: u32 = 6;

/// The last go.
#[derive(Default)]
pub struct Traffic {
    is_running: AtomicBool,
    done: AtomicU32,
    refused: AtomicU32,
    retried: AtomicU32,
}

/// What has come of it so far.
pub struct Progress {
    /// Whether it goes on.
    pub is_running: bool,
    /// Transfers that were made.
    pub done: u32,
    /// Transfers that a rule refused.
    pub refused: u32,
    /// How often a transfer was decided anew, because another one of the same account came first.
    pub retried: u32,
}

impl Traffic {
    /// What has come of the last go.
    pub fn progress(&self) -> Progress {
        let count = |counter: &AtomicU32| counter.load(Ordering::Relaxed);
        Progress {
            is_running: self.is_running.load(Ordering::Relaxed),
            done: count(&self.done),
            refused: count(&self.refused),
            retried: count(&self.retried),
        }
    }

    /// Makes the transfers; does nothing while others are being made.
    pub async fn run(&self, bank: &Bank) -> Result<()> {
        if self.is_running.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        for counter in [&self.done, &self.refused, &self.retried] {
            counter.store(0, Ordering::Relaxed);
        }
        let accounts = bank.accounts().await.map(|all| {
            all.iter()
                .filter(|account| !account.is_in_review)
                .map(|account| account.number)
                .collect::<Vec<_>>()
        });
        let made = match accounts {
            Ok(accounts) if accounts.len() > 1 => {
                let tellers = (0..TELLERS).map(|teller| self.work(bank, &accounts, teller));
                futures_util::future::try_join_all(tellers).await.map(drop)
            }
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        self.is_running.store(false, Ordering::Relaxed);
        made
    }

    async fn work(&self, bank: &Bank, accounts: &[i64], teller: u32) -> Result<()> {
        let count = u32::try_from(accounts.len())?;
        for number in (teller..TRANSFERS).step_by(usize::try_from(TELLERS)?) {
            // All tellers begin with the same account: they meet each other.
            let from = (number / TELLERS) % count;
            let to = (from + 1 + number % (count - 1)) % count;
            let pick = |index: u32| accounts.get(usize::try_from(index).unwrap_or_default()).copied();
            let (Some(source), Some(target)) = (pick(from), pick(to)) else { continue };
            let amount = format!("{}.{:02}", 1 + number % 9, number % 100);
            let command = Uuid::new_v4();
            let order =
                Order { command, source, target, amount, reference: format!("Traffic {}", number + 1) };
            match bank.transfer(&order).await {
                Ok(attempts) => {
                    self.done.fetch_add(1, Ordering::Relaxed);
                    self.retried.fetch_add(attempts - 1, Ordering::Relaxed);
                }
                Err(Refusal::Rule(_)) => _ = self.refused.fetch_add(1, Ordering::Relaxed),
                Err(Refusal::Failure(error)) => return Err(error),
            }
        }
        let made = self.done.load(Ordering::Relaxed) + self.refused.load(Ordering::Relaxed);
        ensure!(made <= TRANSFERS, "{made} transfers were made");
        Ok(())
    }
}
