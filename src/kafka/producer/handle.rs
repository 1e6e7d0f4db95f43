//! Owns the main thread's handle on the Kafka thread.
//!
//! Runs in: the relay's main thread.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};
use event_outbox_policy::kafka::producer::ProducerConfig;

use super::messages::{ProduceBatch, ProducerCommand, ProducerEvent};
use super::thread::KafkaThread;
use super::transactional::{Claimant, TransactionalThread};
use crate::kafka::config;
use crate::kafka::threads::{self, StartError, with_signals_blocked};
use crate::kafka::wakeup_fd::WakeupFd;

/// How many commands may wait for the Kafka thread. The window of events in flight bounds the events of batches.
const MAX_WAITING_COMMANDS: usize = 64;

/// How many commands go together, at most: the deletions before a batch, and the batch.
const TOGETHER: usize = 2;

/// How many messages may wait for the main thread. Beyond that the Kafka thread blocks.
const MAX_WAITING_EVENTS: usize = 1024;

/// A producer on a thread of its own.
#[derive(Debug)]
pub struct ProducerHandle {
    commands: Sender<ProducerCommand>,
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
        let config = config::client_config(producer).map_err(StartError::Config)?;
        let envelope = producer.envelope.clone();
        Self::spawn(|commands, events, wakeup| {
            let thread = KafkaThread { config, envelope, commands, events, wakeup, main_wakeup };
            move || thread.run()
        })
    }

    /// Starts a thread that delivers exactly once, for this claimant.
    ///
    /// # Errors
    /// As [`ProducerHandle::start`].
    pub fn start_exactly_once(
        producer: &ProducerConfig,
        claimant: Claimant,
        main_wakeup: Arc<WakeupFd>,
    ) -> Result<Self, StartError> {
        let config = config::client_config(producer).map_err(StartError::Config)?;
        let progress = config::for_progress(producer).map_err(StartError::Config)?;
        let (envelope, topic) = (producer.envelope.clone(), producer.progress_topic.clone());
        Self::spawn(|commands, events, wakeup| {
            let thread = TransactionalThread {
                config,
                progress,
                topic,
                claimant,
                envelope,
                commands,
                events,
                wakeup,
                main_wakeup,
            };
            move || thread.run()
        })
    }

    fn spawn<W: FnOnce() + Send + 'static>(
        thread: impl FnOnce(Receiver<ProducerCommand>, Sender<ProducerEvent>, Arc<WakeupFd>) -> W,
    ) -> Result<Self, StartError> {
        let wakeup = Arc::new(WakeupFd::new().map_err(StartError::System)?);
        let (commands, from_main) = bounded(MAX_WAITING_COMMANDS);
        let (to_main, events) = bounded(MAX_WAITING_EVENTS);
        let work = thread(from_main, to_main, wakeup.clone());
        let thread = with_signals_blocked(|| std::thread::Builder::new().name("kafka".into()).spawn(work));
        Ok(Self { commands, events, wakeup, thread: thread.map_err(StartError::System)? })
    }

    /// Hands over a batch. Returns `false` if too many wait already; then the batch is dropped.
    #[must_use]
    pub fn publish(&self, batch: ProduceBatch) -> bool {
        self.tell(ProducerCommand::Publish(batch))
    }

    /// Sends a command. Returns `false` if too many wait already; then it is dropped.
    #[must_use]
    pub fn tell(&self, command: ProducerCommand) -> bool {
        let taken = self.commands.try_send(command).is_ok();
        if taken {
            self.wakeup.set();
        }
        taken
    }

    /// Whether deletions and a batch would be accepted now.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.commands.len() + TOGETHER <= MAX_WAITING_COMMANDS
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
        let Self { commands, events, wakeup, thread } = self;
        // The thread ends when its channels are closed, whatever it waits for.
        drop((commands, events));
        wakeup.set();
        threads::join_by(thread, deadline)
    }
}
