//! Hears of changes by LISTEN, and tells the browsers that are there. While nothing happens, nothing is asked.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use serde::Deserialize;
use tokio::sync::watch;
use tokio_postgres::{AsyncMessage, NoTls, Notification};

use crate::database;
use crate::stage::{BANK, REACTOR};

/// What is heard of the bank's database: published events, projected balances, dead letters.
const BANK_CHANNELS: &str = r#"LISTEN "outbox:bank.transfers"; LISTEN "outbox:bank.accounts"; LISTEN balances;
                               LISTEN outbox_dead_letter"#;
/// What is heard of the reactor's: stored and handled events, dead letters.
const REACTOR_CHANNELS: &str = r#"LISTEN "inbox:transfers"; LISTEN reactor; LISTEN inbox_dead_letter"#;
/// The channel on which the inbox tells what it has stored.
const STORED: &str = "inbox:transfers";
/// The pause after a lost connection.
const PAUSE: Duration = Duration::from_secs(1);
/// Batches of the inbox that are remembered.
const REMEMBERED: usize = 1_000;

/// When the inbox stored which positions.
#[derive(Default)]
pub struct Heard {
    batches: Mutex<VecDeque<Batch>>,
}

struct Batch {
    first: i64,
    last: i64,
    at: f64,
}

/// The payload of the inbox's notification.
#[derive(Deserialize)]
struct Stored {
    first_position: i64,
    last_position: i64,
}

impl Heard {
    /// When the event at this position was stored, in milliseconds since 1970; none if that was not heard.
    pub fn stored(&self, position: i64) -> Option<f64> {
        let batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        batches.iter().find(|batch| (batch.first..=batch.last).contains(&position)).map(|batch| batch.at)
    }

    fn note(&self, notification: &Notification) {
        if notification.channel() != STORED {
            return;
        }
        // Every role can send a notification: what is none of the inbox's is left alone.
        let Ok(stored) = serde_json::from_str::<Stored>(notification.payload()) else { return };
        let mut batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        batches.push_back(Batch { first: stored.first_position, last: stored.last_position, at: now() });
        if batches.len() > REMEMBERED {
            batches.pop_front();
        }
    }
}

/// Tells of changes, and remembers what was heard.
#[derive(Clone)]
pub struct Live {
    changes: watch::Sender<u64>,
    /// When the inbox stored what.
    pub heard: Arc<Heard>,
}

impl Live {
    /// Begins to listen to both databases of the server with this port.
    pub fn start(port: u16) -> Self {
        let live = Self { changes: watch::Sender::new(0), heard: Arc::default() };
        for (name, channels) in [(BANK, BANK_CHANNELS), (REACTOR, REACTOR_CHANNELS)] {
            let live = live.clone();
            tokio::spawn(async move {
                loop {
                    // A server that restarts is back in a moment.
                    let _ = live.listen(port, name, channels).await;
                    live.tell();
                    tokio::time::sleep(PAUSE).await;
                }
            });
        }
        live
    }

    /// Tells all browsers that something has changed.
    pub fn tell(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// The changes from now on.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Listens until the connection is lost.
    async fn listen(&self, port: u16, database: &str, channels: &str) -> Result<()> {
        let config = database::config(port, database, "teller");
        let (client, mut connection) = config.connect(NoTls).await?;
        let listening = async move {
            client.batch_execute(channels).await?;
            // The client must live: its end is that of the connection.
            std::future::pending::<()>().await;
            drop(client);
            Ok::<(), anyhow::Error>(())
        };
        let hearing = async {
            while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
                if let AsyncMessage::Notification(notification) = message? {
                    self.heard.note(&notification);
                    self.tell();
                }
            }
            Ok(())
        };
        tokio::select! {
            ended = hearing => ended,
            ended = listening => ended,
        }
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64() * 1_000.0)
}
