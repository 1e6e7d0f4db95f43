//! How long a request waits for Kafka's answer.
//!
//! Runs in: the thread of the request.

use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::client::Client;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use super::Failed;
use crate::kafka::error_class::is_transient;
use crate::kafka::topics::{self, LookedUp};

/// The first and the longest timeout of one try. After each try it is checked whether the answer is still wanted.
const TRY_TIMEOUT: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(4));

/// How often to check whether the answer is still wanted while waiting for it.
pub const WANTED_CHECK: Duration = Duration::from_millis(500);

/// The pause before a question is asked again that was answered.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// How long an answer is doubted that says that a topic does not exist.
const DOUBT: Duration = Duration::from_millis(1500);

/// Until when, and as long as it is wanted.
pub struct Patience<'a> {
    deadline: Instant,
    asked: Instant,
    is_wanted: &'a dyn Fn() -> bool,
}

impl<'a> Patience<'a> {
    pub fn new(timeout: Duration, is_wanted: &'a dyn Fn() -> bool) -> Self {
        let now = Instant::now();
        Self { deadline: now + timeout, asked: now, is_wanted }
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

    /// From when on an answer counts as it is.
    fn trusted_from(&self, trust: Trust) -> Instant {
        match trust {
            Trust::Final => self.asked,
            Trust::ForNow => self.deadline,
            Trust::NotAtFirst => self.asked + DOUBT.min((self.deadline - self.asked) / 4),
            Trust::NotInAHurry => self.asked + (self.deadline - self.asked) / 4,
        }
    }

    /// Looks up topics. A topic that seems not to exist, or a partition of which has no leader, is looked up several times.
    pub fn describe<C: ClientContext>(
        &self,
        client: &Client<C>,
        names: &[String],
    ) -> Result<LookedUp, Failed> {
        let ask = |timeout| {
            topics::describe(client, names, timeout).ok_or(KafkaError::AdminOp(Code::OperationTimedOut))
        };
        self.retry_until_trusted(ask, |(found, missing)| {
            match Trust::of(missing.iter().map(|(_, code)| *code)) {
                Trust::Final if found.iter().any(|topic| !topic.leaderless.is_empty()) => Trust::NotInAHurry,
                trust => trust,
            }
        })
    }

    /// Repeats the request until there is an answer, the time is up, or the answer is no longer wanted. An error that Kafka
    /// gives only for a moment is none.
    pub fn retry_until_answered<A>(
        &self,
        question: impl Fn(Duration) -> Result<A, KafkaError>,
    ) -> Result<A, Failed> {
        self.retry_until_trusted(question, |_| Trust::Final)
    }

    /// The same, for an answer that may hold errors itself. `trust` says what to think of it. When the time is up, it counts as
    /// it is. The tries are short because librdkafka's own waiting cannot be interrupted.
    pub fn retry_until_trusted<A>(
        &self,
        question: impl Fn(Duration) -> Result<A, KafkaError>,
        trust: impl Fn(&A) -> Trust,
    ) -> Result<A, Failed> {
        let mut timeout = TRY_TIMEOUT.0;
        loop {
            let asked = Instant::now();
            let answer = question(timeout.min(self.time_left()));
            let pause = match &answer {
                // The try may have failed at once, because no broker is known.
                Err(error) if is_no_answer(error) && asked + timeout < self.deadline => TRY_TIMEOUT.0,
                Ok(answer) if Instant::now() + ASK_AGAIN < self.trusted_from(trust(answer)) => ASK_AGAIN,
                _ => return Ok(answer?),
            };
            if !self.is_wanted() {
                return Ok(answer?);
            }
            if answer.is_err() {
                timeout = (timeout * 2).min(TRY_TIMEOUT.1);
            }
            std::thread::sleep(pause.saturating_sub(asked.elapsed()));
        }
    }
}

/// What to think of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// It holds.
    Final,
    /// It holds only for a moment: ask again while there is time.
    ForNow,
    /// It may hold only for a moment, or for good: ask again for a short time.
    NotAtFirst,
    /// The same, and it is worth a larger part of the time: a leader is being elected, or all its brokers are down.
    NotInAHurry,
}

impl Trust {
    /// What to think of an answer with these errors: the first of them that is not final.
    pub fn of(errors: impl IntoIterator<Item = Code>) -> Self {
        let is_final = |trust: &Self| *trust != Self::Final;
        errors.into_iter().map(Self::of_code).find(is_final).unwrap_or(Self::Final)
    }

    fn of_code(code: Code) -> Self {
        match code {
            // Brokers hear of a new topic one after the other.
            Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition => Self::NotAtFirst,
            code if is_transient(code) => Self::ForNow,
            _ => Self::Final,
        }
    }
}

/// Whether the error means that no broker answered, or could not yet. Other errors are answers.
fn is_no_answer(error: &KafkaError) -> bool {
    use Code::{AllBrokersDown, BrokerTransportFailure, NoEnt, OperationTimedOut};
    match error.rdkafka_error_code() {
        // librdkafka knows the leader of none of the partitions.
        Some(AllBrokersDown | BrokerTransportFailure | OperationTimedOut | NoEnt) => true,
        Some(code) => is_transient(code),
        None => false,
    }
}
