//! Runs users' requests to Kafka, to create a topic, to describe topics or to list offsets, and the watchdog's probes.
//!
//! Runs in: a thread of its own for each request, in the relay's process.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use event_outbox_policy::kafka::admin::{
    self as policy, Action, Answer, FailureKind, Found, Request, TopicDescription,
};
use event_outbox_policy::worker::watchdog::{Health, Subject};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::metadata::{MetadataPartition, MetadataTopic};

use super::config;
use super::error_class::describe;
use super::probe::query_any_broker;

mod offsets;

/// The configuration entries of a topic that the outbox depends on.
const RELEVANT_CONFIG: [&str; 4] =
    ["max.message.bytes", "min.insync.replicas", "cleanup.policy", "retention.ms"];

/// The first and the longest timeout of one try. After each try it is checked whether the answer is still wanted.
const TRY_TIMEOUT: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(4));

/// How often to check whether the answer is still wanted while waiting for it.
const WANTED_CHECK: Duration = Duration::from_millis(500);

/// Runs the request and returns the answer. It takes at most the request's timeout, and ends soon after `is_wanted` returns
/// `false`, when nobody waits any more. `known_topics` are the topics of the events that the relay has read.
#[must_use]
pub fn run(
    config: &ClientConfig,
    request: &Request,
    known_topics: &[Arc<str>],
    is_wanted: &dyn Fn() -> bool,
) -> Answer {
    let done = Admin::open(config, request.timeout(), is_wanted).and_then(|admin| match &request.action {
        Action::CreateTopic { create_topic } => admin.create_topic(create_topic).map(|()| None),
        Action::DescribeTopics { describe_topics, and_those_met } => {
            let mut names: BTreeSet<&str> = describe_topics.iter().flatten().map(|name| &**name).collect();
            if *and_those_met {
                names.extend(known_topics.iter().map(|name| &**name));
            }
            admin.describe_topics(&names).map(|topics| Some(Found::Topics(topics)))
        }
        Action::ListOffsets { list_offsets } => {
            admin.list_offsets(list_offsets).map(|offsets| Some(Found::Offsets(offsets)))
        }
    });
    match done {
        Ok(found) => Answer::Ok(found),
        Err(Failed { kind, message, detail }) => {
            Answer::failed(kind, message, &config::redactor(config).redact(&detail))
        }
    }
}

/// Why a request failed.
struct Failed {
    kind: FailureKind,
    message: &'static str,
    detail: String,
}

impl Failed {
    fn from_code(code: Code, detail: String) -> Self {
        let (kind, message) = match code {
            Code::TopicAlreadyExists => (FailureKind::Exists, "topic already exists"),
            Code::InvalidTopic
            | Code::InvalidPartitions
            | Code::InvalidReplicationFactor
            | Code::InvalidConfig
            | Code::InvalidArgument
            | Code::InvalidRequest
            | Code::PolicyViolation => (FailureKind::Invalid, "Kafka refused the request"),
            Code::TopicAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::SaslAuthenticationFailed
            | Code::Authentication => {
                (FailureKind::Denied, "permission denied by Kafka for the relay's user")
            }
            _ => (FailureKind::Unreachable, "Kafka did not answer"),
        };
        Self { kind, message, detail }
    }
}

impl From<KafkaError> for Failed {
    fn from(error: KafkaError) -> Self {
        Self::from_code(error.rdkafka_error_code().unwrap_or(Code::Fail), error.to_string())
    }
}

/// Wakes the waiting thread.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// A client for one request.
struct Admin<'a> {
    client: AdminClient<DefaultClientContext>,
    deadline: Instant,
    is_wanted: &'a dyn Fn() -> bool,
}

impl<'a> Admin<'a> {
    fn open(
        config: &ClientConfig,
        timeout: Duration,
        is_wanted: &'a dyn Fn() -> bool,
    ) -> Result<Self, Failed> {
        let client = config.create().map_err(|error: KafkaError| {
            let code = error.rdkafka_error_code().unwrap_or(Code::Fail);
            Failed::from_code(code, config::describe_error(config, &error))
        })?;
        Ok(Self { client, deadline: Instant::now() + timeout, is_wanted })
    }

    fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
    }

    /// Repeats the request until there is an answer, the time is up, or the answer is no longer wanted. The tries are
    /// short because librdkafka's own waiting cannot be interrupted.
    fn retry_until_answered<A>(
        &self,
        question: impl Fn(Duration) -> Result<A, KafkaError>,
    ) -> Result<A, Failed> {
        let mut timeout = TRY_TIMEOUT.0;
        loop {
            let asked = Instant::now();
            match question(timeout.min(self.time_left())) {
                Err(error)
                    if is_no_answer(&error) && asked + timeout < self.deadline && (self.is_wanted)() =>
                {
                    // The try may have failed at once, because no broker is known.
                    std::thread::sleep(TRY_TIMEOUT.0.saturating_sub(asked.elapsed()));
                    timeout = (timeout * 2).min(TRY_TIMEOUT.1);
                }
                done => return Ok(done?),
            }
        }
    }

    /// Waits for the answer while it is wanted.
    fn wait<A>(&self, answer: impl Future<Output = Result<A, KafkaError>>) -> Result<A, Failed> {
        let mut answer = pin!(answer);
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut context = Context::from_waker(&waker);
        loop {
            match answer.as_mut().poll(&mut context) {
                Poll::Ready(done) => return Ok(done?),
                Poll::Pending if (self.is_wanted)() => std::thread::park_timeout(WANTED_CHECK),
                Poll::Pending => return Err(KafkaError::Canceled.into()),
            }
        }
    }

    fn options(&self) -> AdminOptions {
        AdminOptions::new().request_timeout(Some(self.time_left())).operation_timeout(Some(self.time_left()))
    }

    fn create_topic(&self, topic: &policy::NewTopic) -> Result<(), Failed> {
        let config = topic.config_texts();
        let replication = TopicReplication::Fixed(topic.replication_factor);
        let mut new = NewTopic::new(&topic.name, topic.partitions, replication);
        for (name, value) in &config {
            new = new.set(name, value);
        }
        for result in self.wait(self.client.create_topics([&new], &self.options()))? {
            result.map_err(|(name, code)| {
                Failed::from_code(code, format!("topic \"{name}\": {}", describe(code)))
            })?;
        }
        Ok(())
    }

    fn describe_topics(&self, names: &BTreeSet<&str>) -> Result<Vec<TopicDescription>, Failed> {
        // Check that any broker answers before asking for each topic.
        self.retry_until_answered(|timeout| query_any_broker(self.client.inner(), timeout))?;
        let mut topics: Vec<_> = names.iter().map(|name| self.describe(name)).collect::<Result<_, _>>()?;
        self.add_config(&mut topics)?;
        Ok(topics)
    }

    fn describe(&self, name: &str) -> Result<TopicDescription, Failed> {
        let metadata =
            self.retry_until_answered(|timeout| self.client.inner().fetch_metadata(Some(name), timeout))?;
        let topic = metadata.topics().iter().find(|topic| topic.name() == name);
        let error = topic.and_then(|topic| topic.error()).map(|error| describe(Code::from(error)));
        let Some(topic) = topic.filter(|topic| !topic.partitions().is_empty()) else {
            let error = error.unwrap_or_else(|| describe(Code::UnknownTopicOrPartition));
            return Ok(TopicDescription { topic: name.into(), error: Some(error), ..Default::default() });
        };
        let unwritable = without_leader(topic);
        Ok(TopicDescription {
            topic: name.into(),
            partitions: Some(topic.partitions().len()),
            replication_factor: topic.partitions().iter().map(|partition| partition.replicas().len()).min(),
            in_sync: topic.partitions().iter().map(least_in_sync).min(),
            error: unwritable.clone().or(error),
            unwritable,
            config: BTreeMap::new(),
        })
    }

    /// Adds the configuration of the topics that exist, as far as the relay's user may read it.
    fn add_config(&self, topics: &mut [TopicDescription]) -> Result<(), Failed> {
        let mut existing: Vec<_> = topics.iter_mut().filter(|topic| topic.partitions.is_some()).collect();
        if existing.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = existing.iter().map(|topic| topic.topic.clone()).collect();
        let resources: Vec<_> = names.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
        let described = self.wait(self.client.describe_configs(&resources, &self.options()))?;
        for (topic, resource) in existing.iter_mut().zip(described) {
            match resource {
                Ok(resource) => {
                    topic.config = RELEVANT_CONFIG
                        .into_iter()
                        .filter_map(|key| Some((key.to_owned(), resource.get(key)?.value.clone())))
                        .collect();
                    topic.check_replicas();
                }
                Err(code) if topic.error.is_none() => {
                    topic.error =
                        Some(format!("could not read the topic's configuration: {}", describe(code)));
                }
                Err(_) => {}
            }
        }
        Ok(())
    }
}

/// The partitions without a leader. No event can be written to them.
fn without_leader(topic: &MetadataTopic) -> Option<String> {
    let ids: Vec<_> =
        topic.partitions().iter().filter(|found| found.leader() < 0).map(|found| found.id()).collect();
    match &ids[..] {
        [] => None,
        [id] => Some(format!("partition {id} has no leader")),
        [id, others @ ..] => Some(format!("partition {id} and {} others have no leader", others.len())),
    }
}

/// The number of in-sync replicas, and the partition.
fn least_in_sync(partition: &MetadataPartition) -> (usize, i32) {
    (partition.isr().len(), partition.id())
}

/// The health of each subject, as a fresh client sees it.
#[must_use]
pub fn check_health(config: &ClientConfig, subjects: &[Subject], timeout: Duration) -> Vec<Health> {
    let names: BTreeSet<&str> = subjects.iter().flatten().map(|topic| &**topic).collect();
    let described = Admin::open(config, timeout, &|| true).and_then(|admin| admin.describe_topics(&names));
    let Ok(described) = described else { return vec![Health::Unknown; subjects.len()] };
    let health = |topic: &str| match described.iter().find(|found| found.topic == topic) {
        Some(TopicDescription { unwritable: Some(why), .. }) => Health::Unhealthy(why.clone()),
        Some(TopicDescription { partitions: Some(_), .. }) => Health::Healthy,
        Some(TopicDescription { error: Some(error), .. }) => Health::Unhealthy(error.clone()),
        _ => Health::Unknown,
    };
    subjects.iter().map(|subject| subject.as_ref().map_or(Health::Healthy, |topic| health(topic))).collect()
}

/// Whether the error means that no broker answered. Other errors are answers.
fn is_no_answer(error: &KafkaError) -> bool {
    use Code::{AllBrokersDown, BrokerTransportFailure, OperationTimedOut};
    matches!(error.rdkafka_error_code(), Some(AllBrokersDown | BrokerTransportFailure | OperationTimedOut))
}
