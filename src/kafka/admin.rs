//! What people ask of Kafka through the relay: to create a topic, to describe topics.
//!
//! A request and its answer are JSON documents, for they cross from one process to another:
//!
//! | request | `ok` of the answer |
//! |---|---|
//! | `{"create_topic": {"name", "partitions", "replication_factor", "config": {…}}}` | `null` |
//! | `{"describe_topics": ["name", …], "and_those_met": bool}` | `[{"topic", "partitions", "replication_factor", "config": {…}, "error"}, …]` |
//!
//! A request that failed is answered `{"error": {"kind", "message", "detail"}}`.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use event_outbox_policy::worker::watchdog::{Health, Subject};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::metadata::{MetadataPartition, MetadataTopic};
use serde_json::{Map, Value, json};

use super::config;
use super::error_class::in_words;
use super::producer::client::ask_any_broker;

/// The configuration of a topic that an outbox depends on.
const CONFIG_OF_INTEREST: [&str; 4] =
    ["max.message.bytes", "min.insync.replicas", "cleanup.policy", "retention.ms"];

/// The first and the longest time for which one question waits before it is asked again, and before it is looked whether
/// anybody still wants to know.
const SLICE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(4));

/// How often to look at that while the answer may come at any time.
const LOOK: Duration = Duration::from_millis(500);

/// Does what `request` says, and gives the answer. Takes up to the request's own time, or ends soon after `is_wanted` says
/// that nobody waits any more. `met` are the topics that the relay has met.
#[must_use]
pub fn run(config: &ClientConfig, request: &str, met: Vec<Arc<str>>, is_wanted: &dyn Fn() -> bool) -> String {
    let request: Value = serde_json::from_str(request).unwrap_or(Value::Null);
    let timeout = Duration::from_millis(request["timeout_ms"].as_u64().unwrap_or(0));
    let done = Admin::open(config, timeout, is_wanted).and_then(|admin| {
        let request = &request["request"];
        if let Some(topic) = request.get("create_topic") {
            admin.create_topic(topic)
        } else {
            let mut names = strings(&request["describe_topics"]);
            if request["and_those_met"] == true {
                names.extend(met.iter().map(|name| &**name));
            }
            admin.describe_topics(&names)
        }
    });
    match done {
        Ok(value) => json!({ "ok": value }).to_string(),
        Err(failed) => refuse(failed.kind, failed.message, &config::redactor(config).redact(&failed.detail)),
    }
}

/// The answer to a request that cannot be done.
#[must_use]
pub fn refuse(kind: &str, message: &str, detail: &str) -> String {
    json!({ "error": { "kind": kind, "message": message, "detail": detail } }).to_string()
}

/// Why a request failed.
struct Failed {
    kind: &'static str,
    message: &'static str,
    detail: String,
}

impl Failed {
    fn by(code: Code, detail: String) -> Self {
        let (kind, message) = match code {
            Code::TopicAlreadyExists => ("exists", "the topic exists already"),
            Code::InvalidTopic
            | Code::InvalidPartitions
            | Code::InvalidReplicationFactor
            | Code::InvalidConfig
            | Code::InvalidArgument
            | Code::InvalidRequest
            | Code::PolicyViolation => ("invalid", "Kafka refused the request"),
            Code::TopicAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::SaslAuthenticationFailed
            | Code::Authentication => ("denied", "Kafka does not allow the relay's user to do this"),
            _ => ("unreachable", "Kafka did not answer"),
        };
        Self { kind, message, detail }
    }
}

impl From<KafkaError> for Failed {
    fn from(error: KafkaError) -> Self {
        Self::by(error.rdkafka_error_code().unwrap_or(Code::Fail), error.to_string())
    }
}

/// Wakes the thread that waits.
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
            Failed::by(code, config::in_words(config, &error))
        })?;
        Ok(Self { client, deadline: Instant::now() + timeout, is_wanted })
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
    }

    /// Asks until there is an answer, the time is up, or nobody wants to know: librdkafka's own waiting cannot be ended.
    fn ask<A>(&self, question: impl Fn(Duration) -> Result<A, KafkaError>) -> Result<A, Failed> {
        let mut slice = SLICE.0;
        loop {
            let asked = Instant::now();
            match question(slice.min(self.left())) {
                Err(error) if is_silence(&error) && asked + slice < self.deadline && (self.is_wanted)() => {
                    // It may have known at once that there is nobody to ask.
                    std::thread::sleep(SLICE.0.saturating_sub(asked.elapsed()));
                    slice = (slice * 2).min(SLICE.1);
                }
                done => return Ok(done?),
            }
        }
    }

    /// Waits for the answer to come, while somebody wants to know.
    fn wait<A>(&self, answer: impl Future<Output = Result<A, KafkaError>>) -> Result<A, Failed> {
        let mut answer = pin!(answer);
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut context = Context::from_waker(&waker);
        loop {
            match answer.as_mut().poll(&mut context) {
                Poll::Ready(done) => return Ok(done?),
                Poll::Pending if (self.is_wanted)() => std::thread::park_timeout(LOOK),
                Poll::Pending => return Err(KafkaError::Canceled.into()),
            }
        }
    }

    fn options(&self) -> AdminOptions {
        AdminOptions::new().request_timeout(Some(self.left())).operation_timeout(Some(self.left()))
    }

    fn create_topic(&self, topic: &Value) -> Result<Value, Failed> {
        let number = |name: &str| topic[name].as_i64().and_then(|n| i32::try_from(n).ok()).unwrap_or(-1);
        let config: Vec<(String, String)> = topic["config"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, value)| (name.clone(), value.as_str().map_or_else(|| value.to_string(), Into::into)))
            .collect();
        let replication = TopicReplication::Fixed(number("replication_factor"));
        let mut new =
            NewTopic::new(topic["name"].as_str().unwrap_or_default(), number("partitions"), replication);
        for (name, value) in &config {
            new = new.set(name, value);
        }
        for result in self.wait(self.client.create_topics([&new], &self.options()))? {
            result
                .map_err(|(name, code)| Failed::by(code, format!("topic \"{name}\": {}", in_words(code))))?;
        }
        Ok(Value::Null)
    }

    fn describe_topics(&self, names: &BTreeSet<&str>) -> Result<Value, Failed> {
        // Whether anybody answers at all, before each topic is asked for.
        self.ask(|slice| ask_any_broker(self.client.inner(), slice))?;
        let mut topics: Vec<Value> =
            names.iter().map(|name| self.describe(name)).collect::<Result<_, _>>()?;
        self.add_config(&mut topics)?;
        Ok(Value::Array(topics))
    }

    fn describe(&self, name: &str) -> Result<Value, Failed> {
        let metadata = self.ask(|slice| self.client.inner().fetch_metadata(Some(name), slice))?;
        let topic = metadata.topics().iter().find(|topic| topic.name() == name);
        let error = topic.and_then(|topic| topic.error()).map(|error| in_words(Code::from(error)));
        let leaderless = topic.and_then(without_leader);
        let in_sync = topic.and_then(|topic| topic.partitions().iter().map(least_in_sync).min());
        let partitions = topic.map_or(0, |topic| topic.partitions().len());
        let replicas = topic
            .and_then(|topic| topic.partitions().iter().map(|partition| partition.replicas().len()).min());
        Ok(if partitions == 0 {
            let error = error.unwrap_or_else(|| in_words(Code::UnknownTopicOrPartition));
            json!({ "topic": name, "error": error })
        } else {
            json!({
                "topic": name, "partitions": partitions, "replication_factor": replicas,
                "in_sync": in_sync, "ill": leaderless, "error": leaderless.clone().or(error),
            })
        })
    }

    /// Adds the configuration of those that exist, where it may be read.
    fn add_config(&self, topics: &mut [Value]) -> Result<(), Failed> {
        let existing: Vec<String> = topics
            .iter()
            .filter(|topic| topic.get("partitions").is_some())
            .filter_map(|topic| Some(topic["topic"].as_str()?.to_owned()))
            .collect();
        if existing.is_empty() {
            return Ok(());
        }
        let resources: Vec<_> = existing.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
        let described = self.wait(self.client.describe_configs(&resources, &self.options()))?;
        for (name, resource) in existing.iter().zip(described) {
            let Some(topic) = topics.iter_mut().find(|topic| topic["topic"] == **name) else { continue };
            match resource {
                Ok(resource) => {
                    let config: Map<String, Value> = CONFIG_OF_INTEREST
                        .into_iter()
                        .filter_map(|key| Some((key.to_owned(), resource.get(key)?.value.clone().into())))
                        .collect();
                    topic["config"] = Value::Object(config);
                    add_short_of_replicas(topic);
                }
                Err(code) if topic["error"].is_null() => {
                    topic["error"] = format!("its configuration cannot be read: {}", in_words(code)).into();
                }
                Err(_) => {}
            }
        }
        Ok(())
    }
}

/// Which partitions nobody leads: nothing can be written to those.
fn without_leader(topic: &MetadataTopic) -> Option<String> {
    let ids: Vec<_> =
        topic.partitions().iter().filter(|found| found.leader() < 0).map(|found| found.id()).collect();
    match &ids[..] {
        [] => None,
        [id] => Some(format!("partition {id} has no leader")),
        [id, others @ ..] => Some(format!("partition {id} has no leader, nor have {} others", others.len())),
    }
}

/// Replicas in sync, and of which partition.
fn least_in_sync(partition: &MetadataPartition) -> (usize, i32) {
    (partition.isr().len(), partition.id())
}

/// Says so if a partition has fewer replicas in sync than its topic wants.
fn add_short_of_replicas(topic: &mut Value) {
    let wanted = topic["config"]["min.insync.replicas"].as_str().and_then(|text| text.parse::<u64>().ok());
    let (Some(wanted), Some(in_sync)) = (wanted, topic["in_sync"][0].as_u64()) else { return };
    if in_sync < wanted && topic["ill"].is_null() {
        let partition = &topic["in_sync"][1];
        let ill =
            format!("partition {partition} has {in_sync} of the {wanted} replicas in sync that it needs");
        (topic["ill"], topic["error"]) = (ill.clone().into(), ill.into());
    }
}

/// What Kafka says of each subject to a client that knows nothing yet.
#[must_use]
pub fn ask_health(config: &ClientConfig, subjects: &[Subject], timeout: Duration) -> Vec<Health> {
    let names: BTreeSet<&str> = subjects.iter().flatten().map(|topic| &**topic).collect();
    let described = Admin::open(config, timeout, &|| true).and_then(|admin| admin.describe_topics(&names));
    let Ok(described) = described else { return vec![Health::Unknown; subjects.len()] };
    let health = |topic: &str| {
        let found = described.as_array().into_iter().flatten().find(|found| found["topic"] == *topic);
        match found.map(|found| (found["partitions"].is_null(), &found["ill"], &found["error"])) {
            Some((false, Value::Null, _)) => Health::Well,
            Some((false, Value::String(ill), _)) => Health::Ill(ill.clone()),
            Some((true, _, Value::String(error))) => Health::Ill(error.clone()),
            _ => Health::Unknown,
        }
    };
    subjects.iter().map(|subject| subject.as_ref().map_or(Health::Well, |topic| health(topic))).collect()
}

/// Whether nobody has answered, as opposed to an answer that is an error.
fn is_silence(error: &KafkaError) -> bool {
    use Code::{AllBrokersDown, BrokerTransportFailure, OperationTimedOut};
    matches!(error.rdkafka_error_code(), Some(AllBrokersDown | BrokerTransportFailure | OperationTimedOut))
}

fn strings(list: &Value) -> BTreeSet<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}
