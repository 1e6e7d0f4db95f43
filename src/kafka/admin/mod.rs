//! Runs users' requests to Kafka, to create a topic, to describe topics, to list offsets or to look at records, and the
//! watchdog's probes.
//!
//! Runs in: a thread of its own for each request, in the relay's process.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use event_outbox_policy::kafka::admin::{
    self as policy, Action, Answer, FailureKind, Found, Request, TopicDescription,
};
use event_outbox_policy::kafka::producer::ProducerConfig;
use event_outbox_policy::worker::watchdog::{Health, Subject};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::metadata::{Metadata, MetadataPartition, MetadataTopic};

use self::patience::{Patience, Trust};
use super::config::{self, ConfigError};
use super::connections;
use super::error_class::{describe, is_silence};
use super::probe::query_any_broker;

mod offsets;
mod patience;
mod peek;
pub mod progress;

/// The configuration entries of a topic that the outbox depends on.
const RELEVANT_CONFIG: [&str; 4] =
    ["max.message.bytes", "min.insync.replicas", "cleanup.policy", "retention.ms"];

/// The configuration of the client for a request, with the connection of this producer.
///
/// # Errors
/// The settings or the file are invalid.
pub fn client_config(action: &Action, producer: &ProducerConfig) -> Result<ClientConfig, ConfigError> {
    match action {
        Action::Peek { .. } => config::for_peek(producer),
        Action::CreateTopic { .. } | Action::DescribeTopics { .. } | Action::ListOffsets { .. } => {
            Ok(config::for_requests(&config::client_config(producer)?))
        }
    }
}

/// Runs the request with a client of this configuration, and returns the answer. It takes at most the request's timeout, and
/// ends soon after `is_wanted` returns `false`, when nobody waits any more. `known_topics` are the topics of the events that
/// the relay has read.
#[must_use]
pub fn run(
    config: &ClientConfig,
    request: &Request,
    known_topics: &[Arc<str>],
    is_wanted: &dyn Fn() -> bool,
) -> Answer {
    let patience = Patience::new(request.timeout(), is_wanted);
    match find(config, &request.action, known_topics, patience) {
        Ok(found) => Answer::Ok(found),
        Err(Failed { kind, message, detail }) => {
            Answer::failed(kind, message, &config::redactor(config).redact(&detail))
        }
    }
}

fn find(
    config: &ClientConfig,
    action: &Action,
    known_topics: &[Arc<str>],
    patience: Patience<'_>,
) -> Result<Option<Found>, Failed> {
    match action {
        Action::CreateTopic { create_topic } => {
            Admin::open(config, patience)?.create_topic(create_topic).map(|()| None)
        }
        Action::DescribeTopics { describe_topics, and_those_met } => {
            let mut names: BTreeSet<&str> = describe_topics.iter().flatten().map(|name| &**name).collect();
            if *and_those_met {
                names.extend(known_topics.iter().map(|name| &**name));
            }
            Admin::open(config, patience)?.describe_topics(&names).map(|topics| Some(Found::Topics(topics)))
        }
        Action::ListOffsets { list_offsets } => Admin::open(config, patience)?
            .list_offsets(list_offsets)
            .map(|offsets| Some(Found::Offsets(offsets))),
        Action::Peek { peek } => {
            peek::run(config, peek, &patience).map(|peeked| Some(Found::Records(peeked)))
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
    /// No client could be created.
    fn to_open(config: &ClientConfig, error: &KafkaError) -> Self {
        let code = error.rdkafka_error_code().unwrap_or(Code::Fail);
        Self::from_code(code, config::describe_error(config, error))
    }

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
            _ if is_silence(code) => (FailureKind::Unreachable, "Kafka did not answer"),
            _ => (FailureKind::Unreachable, "Kafka answered with an error"),
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
    patience: Patience<'a>,
}

impl<'a> Admin<'a> {
    fn open(config: &ClientConfig, patience: Patience<'a>) -> Result<Self, Failed> {
        let client: AdminClient<_> = config.create().map_err(|error| Failed::to_open(config, &error))?;
        // SAFETY: the client is alive.
        unsafe { connections::pace(client.inner().native_ptr()) };
        Ok(Self { client, patience })
    }

    /// Waits for the answer while it is wanted.
    fn wait<A>(&self, answer: impl Future<Output = Result<A, KafkaError>>) -> Result<A, Failed> {
        let mut answer = pin!(answer);
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut context = Context::from_waker(&waker);
        loop {
            match answer.as_mut().poll(&mut context) {
                Poll::Ready(done) => return Ok(done?),
                Poll::Pending if self.patience.is_wanted() => {
                    std::thread::park_timeout(patience::WANTED_CHECK)
                }
                Poll::Pending => return Err(KafkaError::Canceled.into()),
            }
        }
    }

    fn options(&self) -> AdminOptions {
        let time_left = Some(self.patience.time_left());
        AdminOptions::new().request_timeout(time_left).operation_timeout(time_left)
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
        self.patience.retry_until_answered(|timeout| query_any_broker(self.client.inner(), timeout))?;
        let mut topics: Vec<_> = names.iter().map(|name| self.describe(name)).collect::<Result<_, _>>()?;
        self.add_config(&mut topics)?;
        Ok(topics)
    }

    fn describe(&self, name: &str) -> Result<TopicDescription, Failed> {
        fn find<'a>(metadata: &'a Metadata, name: &str) -> Option<&'a MetadataTopic> {
            metadata.topics().iter().find(|topic| topic.name() == name)
        }
        let metadata = self.patience.retry_until_trusted(
            |timeout| self.client.inner().fetch_metadata(Some(name), timeout),
            |metadata| match find(metadata, name).and_then(MetadataTopic::error).map(Code::from) {
                // An outage of the topic is what is to be told.
                Some(code) if Trust::of([code]) != Trust::Final => Trust::NotAtFirst,
                _ => Trust::Final,
            },
        )?;
        let topic = find(&metadata, name);
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
    let described =
        Admin::open(config, Patience::new(timeout, &|| true)).and_then(|admin| admin.describe_topics(&names));
    let Ok(described) = described else { return vec![Health::Unknown; subjects.len()] };
    let health = |topic: &str| match described.iter().find(|found| found.topic == topic) {
        Some(TopicDescription { unwritable: Some(why), .. }) => Health::Unhealthy(why.clone()),
        Some(TopicDescription { partitions: Some(_), .. }) => Health::Healthy,
        Some(TopicDescription { error: Some(error), .. }) => Health::Unhealthy(error.clone()),
        _ => Health::Unknown,
    };
    subjects.iter().map(|subject| subject.as_ref().map_or(Health::Healthy, |topic| health(topic))).collect()
}
