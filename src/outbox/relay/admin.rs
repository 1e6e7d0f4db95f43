//! Owns the requests to Kafka that backends of the same database make: each is taken from its slot, run in a
//! thread of its own, and answered.
//!
//! Runs in: a relay's background worker, main thread.
//!
//! The requests need no producer, so they are also run while the relay is paused or disabled.

use crossbeam_channel::{Receiver, TryRecvError, bounded};
use event_outbox_policy::kafka::admin::{Answer, FailureKind, Request};
use event_outbox_policy::kafka::peek;

use super::Relay;
use super::registration::KIND;
use crate::kafka::admin;
use crate::kafka::threads::with_signals_blocked;
use crate::kafka::wakeup_fd::SetAtEnd;
use crate::worker::admin_request::{BUFFER_BYTES, RequestId, requests};

/// How many of the topics that the relay has read a request to Kafka may cover.
const MAX_TOPICS: usize = 500;

/// The rest is for what surrounds the records.
const _: () = assert!(peek::ROOM + 1024 <= BUFFER_BYTES, "an answer has no room for records");

/// A request that is being run.
pub(super) struct AdminTask {
    id: RequestId,
    answer: Receiver<Answer>,
}

impl Relay {
    /// Answers the request that is done, and takes the next. A request that nobody waits for any more soon
    /// ends by itself.
    pub(super) fn run_admin_tasks(&mut self) {
        if let Some(AdminTask { id, answer }) = self.admin_task.take() {
            match answer.try_recv() {
                Ok(answer) => reply(id, &answer),
                Err(TryRecvError::Disconnected) => {
                    let detail = "The thread of the request ended before it was done.";
                    reply(id, &Answer::failed(FailureKind::Other, "the request to Kafka failed", detail));
                }
                Err(TryRecvError::Empty) => self.admin_task = Some(AdminTask { id, answer }),
            }
        }
        if self.admin_task.is_some() {
            return;
        }
        if let Some((id, request)) = requests().fetch(KIND) {
            match self.begin(id, &request) {
                Ok(answer) => self.admin_task = Some(AdminTask { id, answer }),
                Err(refusal) => reply(id, &refusal),
            }
        }
    }

    /// Starts a thread that runs the request. Returns the answer as an error if that is not possible.
    fn begin(&self, id: RequestId, request: &str) -> Result<Receiver<Answer>, Answer> {
        let refuse = |detail: String| {
            Answer::failed(FailureKind::Misconfigured, "could not create a Kafka client", &detail)
        };
        let request: Request = serde_json::from_str(request).map_err(|error| {
            Answer::failed(FailureKind::Invalid, "the relay does not know this request", &error.to_string())
        })?;
        let config = admin::client_config(&request.action, &self.settings.producer)
            .map_err(|error| refuse(error.to_string()))?;
        let (sender, answer) = bounded(1);
        let wakeup = self.kafka_wakeup.clone();
        let interest = requests().interest(id);
        let met: Vec<_> = self.topics.iter().take(MAX_TOPICS).cloned().collect();
        let work = move || {
            // Dropped after the answer is sent.
            let _wake = SetAtEnd(wakeup);
            // If the relay is gone, nobody needs the answer.
            let _ = sender.send(admin::run(&config, &request, &met, &|| interest.is_there()));
        };
        let thread =
            with_signals_blocked(|| std::thread::Builder::new().name("kafka-admin".into()).spawn(work));
        thread.map(|_| answer).map_err(|error| refuse(error.to_string()))
    }
}

/// Answers the next request, if there is one, that it cannot be run now, and why.
pub(super) fn decline(reason: &str) {
    if let Some((id, _)) = requests().fetch(KIND) {
        reply(id, &Answer::failed(FailureKind::Waiting, "the relay cannot ask Kafka now", reason));
    }
}

fn reply(id: RequestId, answer: &Answer) {
    let too_long = Answer::failed(
        FailureKind::Invalid,
        "Kafka's answer is too long",
        "Ask about fewer topics at a time.",
    );
    requests().answer(id, &answer.to_json(), &too_long.to_json());
}
