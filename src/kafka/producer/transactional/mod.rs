//! The Kafka thread of a relay that delivers exactly once: one transaction for each batch, with a marker as its last record.
//!
//! Runs in: the Kafka thread of the relay's process.
//!
//! The protocol between the threads. A thread has one producer. It ends with it, after any outcome that is not known; then
//! the main thread starts another one, which finds out.
//!
//! ```text
//! Kafka thread                                         main thread
//! ------------                                         -----------
//! progress topic: create, check, read to its end
//! another relay publishes: wait         ─ HoldsBack ─▶ shows it
//! initialise the producers, end what hangs,
//! write a claim, read up to it          ─ Started ───▶ rows of the listed events become events in flight that are
//!                                                      delivered: they are settled as ever. Then it sweeps.
//! take a batch                          ◀─ Deleted ─── the deletions that are durable, for the next marker
//!                                       ◀─ Publish ─── a batch. The next one is read while this one is committed
//! its transaction: events, marker,
//! all reports, commit                   ─ Reports ───▶ settles
//! an event is refused: abort            ─ RolledBack ▶ sweeps no more, puts back what it has not handed over
//!                                       ─ Reports ───▶ settles: the refused event is charged, the others come back
//! give back whatever still comes        ─ Reports ───▶ settles. Nothing is in flight any more:
//! take batches again                    ◀─ Resume ──── sweeps again, in order
//! outcome not known, fenced, …: end     ─ Broken ────▶ forgets what is in flight, and starts another thread
//! ```
//!
//! librdkafka's calls for transactions block. They get a short time, and are repeated; in between the thread looks whether it
//! is still wanted. The main thread never waits for it.

mod chosen;
mod fates;
mod markers;
#[cfg(feature = "failpoints")]
mod mistakes;
mod rounds;
mod session;
mod start;
mod transaction;
mod transactor;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crossbeam_channel::{Receiver, Sender, TrySendError};
use event_outbox_policy::delivery::marker::{EventPart, Instance, Owner};
use event_outbox_policy::event::envelope::Envelope;
use rdkafka::config::ClientConfig;

use super::messages::{ProducerCommand, ProducerEvent};
use crate::kafka::wakeup_fd::{SetAtEnd, WakeupFd};

/// The relay for which a thread publishes.
#[derive(Debug)]
pub struct Claimant {
    /// Its place.
    pub owner: Owner,
    /// Its name.
    pub instance: Instance,
    /// Its last number of a claim or transaction. The thread counts on.
    pub serial: Arc<AtomicU64>,
    /// Events that it knows to be in Kafka, and whose deletion is not known to be durable.
    pub known: Vec<(i64, EventPart)>,
    /// It publishes even if a server that was promoted later does.
    pub takes_over: bool,
}

/// The thread's arguments: its ends of both channels, its own wakeup, and that of the main thread.
pub struct TransactionalThread {
    pub(super) config: ClientConfig,
    /// The configuration of the consumer of markers.
    pub(super) progress: ClientConfig,
    /// The topic of the markers.
    pub(super) topic: String,
    pub(super) claimant: Claimant,
    pub(super) envelope: Envelope,
    pub(super) commands: Receiver<ProducerCommand>,
    pub(super) events: Sender<ProducerEvent>,
    pub(super) wakeup: Arc<WakeupFd>,
    pub(super) main_wakeup: Arc<WakeupFd>,
}

/// Why the thread ends.
#[derive(Debug)]
enum End {
    /// The main thread has closed its channels.
    Closed,
    /// The producer cannot be used any more. Holds the reason.
    Broken(String),
    /// The same, and another one could not be used either. Holds the reason, and what to do.
    Unfit(String),
}

impl TransactionalThread {
    /// Takes its place among the relays, and works until the main thread closes its channels or the producer fails.
    pub fn run(self) {
        let _wake = SetAtEnd(self.main_wakeup.clone());
        if let Err(End::Broken(reason) | End::Unfit(reason)) = self.work() {
            // If the main thread is gone, no one needs this message.
            let _ = self.send(ProducerEvent::Broken(reason));
        }
    }

    fn work(&self) -> Result<(), End> {
        let mut session = start::start(self)?;
        loop {
            session.run_once()?;
        }
    }

    /// Sends a message and wakes the main thread. If the channel is full, the main thread is behind: then this waits.
    fn send(&self, event: ProducerEvent) -> Result<(), End> {
        let sent = match self.events.try_send(event) {
            Err(TrySendError::Full(event)) => {
                self.main_wakeup.set();
                self.events.send(event).map_err(|_| End::Closed)
            }
            other => other.map_err(|_| End::Closed),
        };
        self.main_wakeup.set();
        sent
    }
}
