//! Owns the main thread's handle on the Kafka thread.
//!
//! Runs in: the relay's main thread.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use event_outbox_policy::kafka::producer::ProducerConfig;

use super::messages::{ProduceBatch, ProducerEvent};
use super::thread::KafkaThread;
use crate::kafka::config::{self, ConfigError};
use crate::kafka::wakeup_fd::WakeupFd;

/// How many batches may wait for the Kafka thread. The window of events in flight bounds their events.
const MAX_WAITING_BATCHES: usize = 64;

/// How many messages may wait for the main thread. Beyond that the Kafka thread blocks.
const MAX_WAITING_EVENTS: usize = 1024;

/// How often [`ProducerHandle::stop`] checks whether the thread has ended.
const JOIN_STEP: Duration = Duration::from_millis(2);

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
        while !thread.is_finished() {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(JOIN_STEP);
        }
        thread.join().is_ok()
    }
}

/// Why a producer could not be started.
#[derive(Debug)]
pub enum StartError {
    /// The settings are invalid.
    Config(ConfigError),
    /// The system has no thread or descriptor left.
    System(io::Error),
}

impl StartError {
    /// The properties file at fault, for the server's log.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Config(error) => error.file(),
            Self::System(_) => None,
        }
    }
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::System(error) => error.fmt(f),
        }
    }
}

/// Runs `spawn` with all signals blocked. New threads inherit this, so Postgres' signal handlers run on the main thread
/// only.
pub fn with_signals_blocked<R>(spawn: impl FnOnce() -> R) -> R {
    // SAFETY: the sets live on this stack; the old mask is restored afterwards.
    unsafe {
        let mut all = std::mem::zeroed::<libc::sigset_t>();
        let mut before = std::mem::zeroed::<libc::sigset_t>();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        let result = spawn();
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
        result
    }
}
