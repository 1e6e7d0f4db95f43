//! How long a request waits for Kafka's answer.
//!
//! Runs in: the thread of the request.

use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use super::Failed;

/// The first and the longest timeout of one try. After each try it is checked whether the answer is still wanted.
const TRY_TIMEOUT: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(4));

/// How often to check whether the answer is still wanted while waiting for it.
pub const WANTED_CHECK: Duration = Duration::from_millis(500);

/// Until when, and as long as it is wanted.
pub struct Patience<'a> {
    deadline: Instant,
    is_wanted: &'a dyn Fn() -> bool,
}

impl<'a> Patience<'a> {
    pub fn new(timeout: Duration, is_wanted: &'a dyn Fn() -> bool) -> Self {
        Self { deadline: Instant::now() + timeout, is_wanted }
    }

    pub fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
    }

    /// Whether the answer is still wanted.
    pub fn is_wanted(&self) -> bool {
        (self.is_wanted)()
    }

    /// Whether waiting makes no sense any more.
    pub fn is_over(&self) -> bool {
        Instant::now() >= self.deadline || !self.is_wanted()
    }

    /// Repeats the request until there is an answer, the time is up, or the answer is no longer wanted. The tries are
    /// short because librdkafka's own waiting cannot be interrupted.
    pub fn retry_until_answered<A>(
        &self,
        question: impl Fn(Duration) -> Result<A, KafkaError>,
    ) -> Result<A, Failed> {
        let mut timeout = TRY_TIMEOUT.0;
        loop {
            let asked = Instant::now();
            match question(timeout.min(self.time_left())) {
                Err(error) if is_no_answer(&error) && asked + timeout < self.deadline && self.is_wanted() => {
                    // The try may have failed at once, because no broker is known.
                    std::thread::sleep(TRY_TIMEOUT.0.saturating_sub(asked.elapsed()));
                    timeout = (timeout * 2).min(TRY_TIMEOUT.1);
                }
                done => return Ok(done?),
            }
        }
    }
}

/// Whether the error means that no broker answered. Other errors are answers.
fn is_no_answer(error: &KafkaError) -> bool {
    use Code::{AllBrokersDown, BrokerTransportFailure, OperationTimedOut};
    matches!(error.rdkafka_error_code(), Some(AllBrokersDown | BrokerTransportFailure | OperationTimedOut))
}
