//! Owns the main thread's handle on the Kafka thread.
//!
//! Runs in: the relay's main thread.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};
use event_outbox_policy::kafka::producer::ProducerConfig;

use super::messages::{ProduceBatch, ProducerEvent};
use super::thread::KafkaThread;
use crate::kafka::config;
use crate::kafka::threads::{self, StartError, with_signals_blocked};
use crate::kafka::wakeup_fd::WakeupFd;

/// How many batches may wait for the Kafka thread. The window of events in flight bounds their events.
const MAX_WAITING_BATCHES: usize = 64;

/// How many messages may wait for the main thread. Beyond that the Kafka thread blocks.
const MAX_WAITING_EVENTS: usize = 1024;

/// A producer on a thread of its own.
#[derive(Debug)]
pub struct ProducerHandle {
    batches: Sender<ProduceBatch>,
    events: Receiver<ProducerEvent>,
    wakeup: Arc<WakeupFd>,
    thread: JoinHandle<()>,
}

impl ProducerHandle {
    /// Starts the thread, which creates the producer. The thread sets `main_wakeup` when it has sent a message.
    ///
    /// # Errors
    /// [`StartError`]: the settings are invalid, or the system has no thread or descriptor left.
    pub fn start(producer: &ProducerConfig, main_wakeup: Arc<WakeupFd>) -> Result<Self, StartError> {
        let client_config = config::client_config(producer).map_err(StartError::Config)?;
        let wakeup = Arc::new(WakeupFd::new().map_err(StartError::System)?);
        let (batches, from_main) = bounded(MAX_WAITING_BATCHES);
        let (to_main, events) = bounded(MAX_WAITING_EVENTS);
        let thread = KafkaThread {
            config: client_config,
            envelope: producer.envelope.clone(),
            batches: from_main,
            events: to_main,
            wakeup: wakeup.clone(),
            main_wakeup,
        };
        let thread = with_signals_blocked(|| {
            std::thread::Builder::new().name("kafka".into()).spawn(move || thread.run())
        });
        Ok(Self { batches, events, wakeup, thread: thread.map_err(StartError::System)? })
    }

    /// Hands over a batch. Returns `false` if too many batches wait already; then the batch is dropped.
    #[must_use]
    pub fn publish(&self, batch: ProduceBatch) -> bool {
        let taken = self.batches.try_send(batch).is_ok();
        if taken {
            self.wakeup.set();
        }
        taken
    }

    /// Whether [`publish`](Self::publish) would accept a batch now.
    #[must_use]
    pub fn has_room(&self) -> bool {
        !self.batches.is_full()
    }

    /// Whether the thread has ended by itself.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// The messages that have arrived.
    pub fn events(&self) -> impl Iterator<Item = ProducerEvent> + '_ {
        self.events.try_iter()
    }

    /// Ends the thread and its producer. The outcome of events still in flight stays unknown. Returns whether the thread
    /// ended by `deadline`. If not, it is abandoned and ends with the process.
    pub fn stop(self, deadline: Instant) -> bool {
        let Self { batches, events, wakeup, thread } = self;
        // The thread ends when its channels are closed, whatever it waits for.
        drop((batches, events));
        wakeup.set();
        threads::join_by(thread, deadline)
    }
}
