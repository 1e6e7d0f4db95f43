//! Asks whether any broker answers: at once, or by a question that stays open when the answer is late, so that a broker that
//! is slow, or comes back, is noticed by its answer.
//!
//! Runs in: any thread that owns a client.

use std::time::{Duration, Instant};

use event_outbox_policy::backoff::Backoff;
use rdkafka::ClientContext;
use rdkafka::bindings as rdsys;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::question::Question;

/// How soon an answer is expected. Later, the outage is reported.
const EXPECTED_AFTER: Duration = Duration::from_secs(1);

/// The same of a client that has just been made: before its question it connects to one broker, learns of the others, and
/// connects to the one that can answer. An error shortens it.
const FIRST_EXPECTED_AFTER: Duration = Duration::from_secs(5);

/// How long a late answer is waited for before the question is asked anew.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// The first and the longest time between two reports of an outage.
const REPORT_AFTER: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// A probe for a broker.
#[derive(Debug)]
pub struct Probe {
    question: Option<Question>,
    asked_at: Option<Instant>,
    expected_after: Duration,
    /// When the silence is reported.
    due: Instant,
    silence: Backoff,
}

/// What a probe has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// A broker answers.
    Answer,
    /// Still none has answered. Time to report it.
    Silence,
}

impl Probe {
    /// A probe of a client that has just been made. It asks at once.
    #[must_use]
    pub fn first() -> Self {
        Self::expecting(FIRST_EXPECTED_AFTER)
    }

    fn expecting(expected_after: Duration) -> Self {
        Self {
            question: None,
            asked_at: None,
            expected_after,
            due: Instant::now(),
            silence: Backoff::new(REPORT_AFTER.0, REPORT_AFTER.1),
        }
    }

    /// The client has met an error, such as a refused connection: an answer is not waited for longer than usual.
    pub fn note_error(&mut self) {
        self.expected_after = EXPECTED_AFTER;
        if let Some(asked_at) = self.asked_at.filter(|_| !self.is_overdue()) {
            self.due = self.due.min(asked_at + EXPECTED_AFTER);
        }
    }

    /// Whether an answer is overdue.
    #[must_use]
    pub fn is_overdue(&self) -> bool {
        self.silence.until().is_some()
    }

    /// When to look again, if no answer arrives.
    #[must_use]
    pub fn due(&self) -> Instant {
        self.due
    }

    /// Looks for the answer. Asks [`Question::about_brokers`] with this patience if no question is open.
    pub fn look(&mut self, ask: impl FnOnce(Duration) -> Question) -> Option<Finding> {
        let now = Instant::now();
        match self.question.as_ref().and_then(|question| question.answer_within(Duration::ZERO)) {
            Some(answer) if answer.is_silence() => self.question = None,
            Some(_) => return Some(Finding::Answer),
            None => {}
        }
        if self.due > now {
            return None;
        }
        let is_overdue = self.asked_at.is_some();
        if is_overdue {
            self.silence.record_failure(now);
            self.due = (now + EXPECTED_AFTER).max(self.silence.until().unwrap_or(now));
        } else {
            self.asked_at = Some(now);
            self.due = now + self.expected_after;
        }
        if self.question.as_ref().is_none_or(|question| question.age() >= PATIENCE) {
            self.question = Some(ask(PATIENCE));
        }
        is_overdue.then_some(Finding::Silence)
    }
}

impl Default for Probe {
    fn default() -> Self {
        Self::expecting(EXPECTED_AFTER)
    }
}

/// Requests the metadata of a client that has no topics, and waits for the answer. Any broker can answer.
///
/// # Errors
/// librdkafka's error, if no broker answered.
pub fn query_any_broker<C: ClientContext>(
    client: &rdkafka::client::Client<C>,
    timeout: Duration,
) -> Result<(), KafkaError> {
    let mut metadata = std::ptr::null();
    let millis = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the client is alive; the metadata is freed if there is any.
    let code = unsafe {
        let code =
            rdsys::rd_kafka_metadata(client.native_ptr(), 0, std::ptr::null_mut(), &mut metadata, millis);
        if !metadata.is_null() {
            rdsys::rd_kafka_metadata_destroy(metadata);
        }
        code
    };
    match RDKafkaErrorCode::from(code) {
        RDKafkaErrorCode::NoError => Ok(()),
        code => Err(KafkaError::MetadataFetch(code)),
    }
}
