//! Prepares the topic of the markers of delivery exactly once: creates it if it is missing, and checks its form.
//!
//! Runs in: the Kafka thread of a relay that delivers exactly once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use event_outbox_policy::kafka::admin::{FailureKind, NewTopic, TopicDescription};
use rdkafka::config::ClientConfig;

use super::patience::Patience;
use super::{Admin, Failed};
use crate::kafka::config;

/// How long Kafka may take for each request.
const TIMEOUT: Duration = Duration::from_secs(4);

/// How long a topic that was just created may be unknown to other brokers.
const SPREADS_WITHIN: Duration = Duration::from_secs(10);

/// The pause between two looks for it.
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// The configuration of a topic that is created. Markers are short-lived, and a relay that starts reads the whole topic: so
/// it is compacted early.
const CONFIG: [(&str, &str); 4] = [
    ("cleanup.policy", "compact"),
    ("segment.bytes", "16777216"),
    ("segment.ms", "3600000"),
    ("min.cleanable.dirty.ratio", "0.1"),
];

/// The replicas of a topic that is created, and how many of them must have a record before it counts.
const REPLICAS: i32 = 3;
const MIN_IN_SYNC: &str = "2";

/// The brokers' default number of replicas.
const DEFAULT: i32 = -1;

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prepared {
    /// The topic is there and has the right form.
    Ready,
    /// It cannot be used as it is. Holds the reason, and what to do.
    Unfit(String),
    /// Kafka does not answer. Holds the reason.
    Unreachable(String),
}

/// Prepares the topic with a client of this producer's configuration.
#[must_use]
pub fn prepare(config: &ClientConfig, topic: &str, is_wanted: &dyn Fn() -> bool) -> Prepared {
    let patience = Patience::new(TIMEOUT, is_wanted);
    let config = config::for_requests(config);
    let prepared = Admin::open(&config, patience).and_then(|admin| ensure(&admin, topic));
    prepared.unwrap_or_else(|Failed { kind, message, detail }| {
        let detail = config::redactor(&config).redact(&detail);
        match kind {
            FailureKind::Unreachable | FailureKind::Other => Prepared::Unreachable(detail),
            _ => Prepared::Unfit(format!(
                "event_outbox.progress_topic is \"{topic}\": {message}: {detail}. \
                 Allow the relay's Kafka user to create, describe, read and write this topic"
            )),
        }
    })
}

fn ensure(admin: &Admin<'_>, topic: &str) -> Result<Prepared, Failed> {
    if let Some(found) = describe(admin, topic)? {
        return Ok(judge(&found));
    }
    let created = match admin.create_topic(&new_topic(topic, most_replicas(admin, topic)?)) {
        // Perhaps a broker is down, or a policy wants another number.
        Err(Failed { kind: FailureKind::Invalid, .. }) => admin.create_topic(&new_topic(topic, DEFAULT)),
        done => done,
    };
    match created {
        // Another relay may have been faster.
        Ok(()) | Err(Failed { kind: FailureKind::Exists, .. }) => {}
        Err(Failed { kind: FailureKind::Denied | FailureKind::Invalid, detail, .. }) => {
            return Ok(Prepared::Unfit(format!(
                "topic \"{topic}\" does not exist, and Kafka does not let the relay create it: {detail}. \
                 Create it with one partition and cleanup.policy=compact, \
                 or set event_outbox.progress_topic to one that exists"
            )));
        }
        Err(failed) => return Err(failed),
    }
    let until = Instant::now() + SPREADS_WITHIN;
    while Instant::now() < until && admin.patience.is_wanted() {
        if let Some(found) = describe(admin, topic)? {
            return Ok(judge(&found));
        }
        std::thread::sleep(BETWEEN_LOOKS);
    }
    Ok(Prepared::Unreachable(format!("topic \"{topic}\" was created, but no broker knows it yet")))
}

fn new_topic(topic: &str, replication_factor: i32) -> NewTopic {
    let mut config = BTreeMap::from(CONFIG.map(|(name, value)| (name.to_owned(), value.into())));
    if replication_factor == REPLICAS {
        config.insert("min.insync.replicas".into(), MIN_IN_SYNC.into());
    }
    NewTopic { name: topic.to_owned(), partitions: 1, replication_factor, config }
}

/// As many replicas as Kafka's own topics have, if there are so many brokers. The brokers' default can be one, and then nothing
/// would be published without that broker.
fn most_replicas(admin: &Admin<'_>, topic: &str) -> Result<i32, Failed> {
    let ask = |timeout| admin.client.inner().fetch_metadata(Some(topic), timeout);
    let brokers = admin.patience.retry_until_answered(ask)?.brokers().len();
    Ok(if brokers >= REPLICAS as usize { REPLICAS } else { DEFAULT })
}

fn describe(admin: &Admin<'_>, topic: &str) -> Result<Option<TopicDescription>, Failed> {
    let found = admin.describe_topics(&BTreeSet::from([topic]))?;
    Ok(found.into_iter().next().filter(|found| found.partitions.is_some()))
}

/// Whether the topic has the right form, as far as the relay's user may see it.
fn judge(found: &TopicDescription) -> Prepared {
    let topic = &found.topic;
    if let Some(partitions) = found.partitions.filter(|partitions| *partitions != 1) {
        return Prepared::Unfit(format!(
            "event_outbox.progress_topic is \"{topic}\", which has {partitions} partitions: it must have one. \
             Set it to another topic, or to a name that does not exist yet"
        ));
    }
    let policy = found.config.get("cleanup.policy").cloned().flatten();
    if let Some(policy) = policy.filter(|policy| policy != "compact") {
        return Prepared::Unfit(format!(
            "event_outbox.progress_topic is \"{topic}\", which has cleanup.policy={policy}: Kafka would delete what \
             later relays must know. Set cleanup.policy=compact for this topic"
        ));
    }
    let required =
        found.config.get("min.insync.replicas").cloned().flatten().and_then(|text| text.parse().ok());
    if let (Some(replicas), Some(required)) = (found.replication_factor, required)
        && replicas < required
    {
        return Prepared::Unfit(format!(
            "event_outbox.progress_topic is \"{topic}\", which has {replicas} replicas and \
             min.insync.replicas={required}: nothing can be written to it. \
             Raise its replication factor, or lower min.insync.replicas of this topic"
        ));
    }
    match &found.unwritable {
        Some(why) => Prepared::Unreachable(format!("topic \"{topic}\": {why}")),
        None => Prepared::Ready,
    }
}
