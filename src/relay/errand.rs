//! An errand to Kafka for a backend of the same database: taken from the mailbox, done on a thread of its own,
//! answered. It needs no producer, so it is done while the relay is paused or disabled too.

use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, TryRecvError, bounded};

use super::turn::Relay;
use crate::kafka::doorbell::Doorbell;
use crate::kafka::publisher::with_signals_blocked;
use crate::kafka::{admin, config};
use crate::pg::mailbox::mailbox;

/// The topics that Kafka is asked about, at most, of those that the relay has met.
const MOST_TOPICS: usize = 500;

/// One that is under way.
pub(super) struct Errand {
    answer: Receiver<String>,
    _thread: JoinHandle<()>,
}

/// The thread has ended, however it did: the main thread is to look.
struct RingAtEnd(Arc<Doorbell>);

impl Drop for RingAtEnd {
    fn drop(&mut self) {
        self.0.ring();
    }
}

impl Relay {
    /// Takes an errand, if there is one and none is under way; answers the one that is done.
    pub(super) fn run_errands(&mut self) {
        if let Some(errand) = &self.errand {
            match errand.answer.try_recv() {
                Ok(answer) => reply(&answer),
                Err(TryRecvError::Disconnected) => {
                    reply(&admin::refuse(
                        "other",
                        "the request to Kafka failed",
                        "Its thread ended before it was done.",
                    ));
                }
                Err(TryRecvError::Empty) => return,
            }
            self.errand = None;
        }
        if let Some(request) = mailbox().fetch() {
            match self.begin(request) {
                Ok(errand) => self.errand = Some(errand),
                Err(refusal) => reply(&refusal),
            }
        }
    }

    /// Has a thread do it; gives the answer if it cannot be done.
    fn begin(&self, request: String) -> Result<Errand, String> {
        let refuse =
            |detail: String| admin::refuse("misconfigured", "no client for Kafka can be made", &detail);
        let config = config::client_config(&self.settings.producer)
            .map(|config| config::for_requests(&config))
            .map_err(|error| refuse(error.to_string()))?;
        let (give, answer) = bounded(1);
        let bell = self.bell.clone();
        let met = self.topics.iter().take(MOST_TOPICS).cloned().collect();
        let work = move || {
            // Dropped after the answer is given.
            let _ringing = RingAtEnd(bell);
            // Should the relay be gone, nobody needs to know.
            let _ = give.send(admin::run(&config, &request, met));
        };
        let thread =
            with_signals_blocked(|| std::thread::Builder::new().name("kafka-admin".into()).spawn(work));
        thread.map(|thread| Errand { answer, _thread: thread }).map_err(|error| refuse(error.to_string()))
    }
}

/// Says of a request, if there is one, that it cannot be done now, and why.
pub(super) fn decline(reason: &str) {
    if mailbox().fetch().is_some() {
        reply(&admin::refuse("waiting", "the relay cannot ask Kafka now", reason));
    }
}

fn reply(answer: &str) {
    let too_long =
        admin::refuse("invalid", "Kafka's answer is too long", "Ask about fewer topics at a time.");
    mailbox().answer(answer, &too_long);
}
