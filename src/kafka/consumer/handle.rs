//! Owns the main thread's handle on the Kafka thread of a consumer.
//!
//! Runs in: a worker's main thread.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use event_outbox_policy::kafka::consumer::{self, ConsumerConfig};

use super::messages::{Assignment, ConsumerEvent};
use super::thread::KafkaThread;
use crate::kafka::config;
use crate::kafka::threads::{self, StartError, with_signals_blocked};
use crate::kafka::wakeup_fd::WakeupFd;

/// How many messages may wait for the main thread. Beyond that the Kafka thread reads no more records. The memory of a
/// consumer is for one batch that waits and one that is being made.
const MAX_WAITING_EVENTS: usize = 1;

/// A consumer on a thread of its own.
#[derive(Debug)]
pub struct ConsumerHandle {
    assignments: Sender<Assignment>,
    events: Receiver<ConsumerEvent>,
    wakeup: Arc<WakeupFd>,
    thread: JoinHandle<()>,
}

impl ConsumerHandle {
    /// Starts the thread, which creates the consumer. The thread sets `main_wakeup` when it has sent a message.
    ///
    /// # Errors
    /// [`StartError`]: the settings are invalid, or the system has no thread or descriptor left.
    pub fn start(consumer: &ConsumerConfig, main_wakeup: Arc<WakeupFd>) -> Result<Self, StartError> {
        let client_config = config::consumer_config(consumer).map_err(StartError::Config)?;
        let client_config = config::telling_topic_ids(client_config);
        let wakeup = Arc::new(WakeupFd::new().map_err(StartError::System)?);
        // The main thread never waits for the Kafka thread. It sends few assignments.
        let (assignments, from_main) = unbounded();
        let (to_main, events) = bounded(MAX_WAITING_EVENTS);
        let thread = KafkaThread {
            config: client_config,
            batch_bytes: consumer::batch_bytes(consumer.memory),
            assignments: from_main,
            events: to_main,
            wakeup: wakeup.clone(),
            main_wakeup,
        };
        let thread = with_signals_blocked(|| {
            std::thread::Builder::new().name("kafka-consumer".into()).spawn(move || thread.run())
        });
        Ok(Self { assignments, events, wakeup, thread: thread.map_err(StartError::System)? })
    }

    /// Has these partitions read from now on, and no others.
    pub fn assign(&self, assignment: Assignment) {
        // If the thread has ended, its last message tells why.
        let _ = self.assignments.send(assignment);
        self.wakeup.set();
    }

    /// Takes the next message, if one has arrived.
    #[must_use]
    pub fn next_event(&self) -> Option<ConsumerEvent> {
        let event = self.events.try_recv().ok();
        if event.is_some() {
            // The thread may have stopped reading because the channel was full.
            self.wakeup.set();
        }
        event
    }

    /// Whether a message has arrived.
    #[must_use]
    pub fn has_event(&self) -> bool {
        !self.events.is_empty()
    }

    /// Whether the thread has ended by itself.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Ends the thread and its consumer. Returns whether the thread ended by `deadline`. If not, it is abandoned and ends
    /// with the process.
    pub fn stop(self, deadline: Instant) -> bool {
        let Self { assignments, events, wakeup, thread } = self;
        // The thread ends when its channels are closed, whatever it waits for.
        drop((assignments, events));
        wakeup.set();
        threads::join_by(thread, deadline)
    }
}
