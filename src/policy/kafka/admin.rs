//! Owns the requests to Kafka that go through the relay, and the answers.
//!
//! Both are JSON documents, because they cross from one process to another:
//!
//! | request | `ok` of the answer |
//! |---|---|
//! | `{"create_topic": {"name", "partitions", "replication_factor", "config": {…}}}` | `null` |
//! | `{"describe_topics": ["name", …], "and_those_met": bool}` | `[{"topic", "partitions", …, "error"}, …]` |
//! | `{"list_offsets": {"topics": ["name", …], "pattern": "…", "at": "earliest"}}` | `[{"topic", "partition", "offset", …, "error"}, …]` |
//! | `{"peek": {"topic", "partition", "offset", "max"}}` | `{"records": [{"offset", "key", "value", …}, …], "at_end"}` |
//!
//! The answer to a request that failed is `{"error": {"kind", "message", "detail"}}`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::peek::{Peek, Peeked};

/// A request, and the time that Kafka has to answer it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    timeout_ms: u64,
    /// What to do.
    pub action: Action,
}

impl Request {
    /// A request that Kafka must answer within `timeout`.
    #[must_use]
    pub fn new(action: Action, timeout: Duration) -> Self {
        Self { timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX), action }
    }

    /// How long Kafka has to answer.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }
}

/// The action that Kafka shall take.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum Action {
    /// Create a topic.
    CreateTopic {
        /// The topic.
        create_topic: NewTopic,
    },
    /// Describe topics.
    DescribeTopics {
        /// Their names.
        describe_topics: Vec<Option<String>>,
        /// Whether to include the topics of all events that the relay has read.
        #[serde(default)]
        and_those_met: bool,
    },
    /// List the offsets of all partitions of topics.
    ListOffsets {
        /// The topics, and which offsets.
        list_offsets: OffsetsOf,
    },
    /// Look at records of a partition.
    Peek {
        /// Which ones.
        peek: Peek,
    },
}

/// The topics whose offsets are listed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OffsetsOf {
    /// Their names.
    #[serde(default)]
    pub topics: Vec<String>,
    /// A pattern: all topics that match it are listed besides.
    #[serde(default)]
    pub pattern: Option<String>,
    /// Which offset of each partition.
    pub at: OffsetAt,
}

/// Which offset of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OffsetAt {
    /// The first one that Kafka has.
    Earliest,
    /// The one after the last record that every consumer may read.
    Latest,
    /// That of the first record with this timestamp or a later one, in milliseconds since 1970; the latest if there is none.
    TimestampMs(i64),
}

/// An offset of a partition, or why a topic or partition has none.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListedOffset {
    /// The topic.
    pub topic: String,
    /// Its id; `None` if it has none.
    pub topic_id: Option<String>,
    /// The partition; `None` if the topic does not exist or may not be read.
    pub partition: Option<i32>,
    /// The offset.
    pub offset: Option<i64>,
    /// The first offset that Kafka has.
    pub low: Option<i64>,
    /// The one after the last record that every consumer may read.
    pub high: Option<i64>,
    /// How many offsets follow, which no consumer of committed records gets to before an open transaction ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uncommitted: Option<i64>,
    /// Why there is no offset.
    pub error: Option<String>,
}

/// A topic to create.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// The number of partitions; -1 for the brokers' default.
    pub partitions: i32,
    /// The number of replicas of each partition; -1 for the brokers' default.
    pub replication_factor: i32,
    /// Its configuration: strings, numbers and booleans.
    #[serde(default)]
    pub config: BTreeMap<String, Value>,
}

impl NewTopic {
    /// The configuration in the form that Kafka accepts: all values are strings.
    #[must_use]
    pub fn config_texts(&self) -> Vec<(&str, String)> {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), Into::into);
        self.config.iter().map(|(name, value)| (&**name, text(value))).collect()
    }
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The request succeeded. Holds what was asked for, if anything.
    Ok(Option<Found>),
    /// The request failed.
    Error(Failure),
}

impl Answer {
    /// The answer to a request that failed.
    #[must_use]
    pub fn failed(kind: FailureKind, message: &str, detail: &str) -> Self {
        Self::Error(Failure { kind, message: message.into(), detail: detail.into() })
    }

    /// The answer as a JSON document.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// What a request asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Found {
    /// Descriptions of topics.
    Topics(Vec<TopicDescription>),
    /// Offsets of partitions.
    Offsets(Vec<ListedOffset>),
    /// Records of a partition.
    Records(Peeked),
}

/// The description of a topic.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopicDescription {
    /// Its name.
    pub topic: String,
    /// The number of partitions; `None` if the topic does not exist.
    pub partitions: Option<usize>,
    /// The lowest number of replicas of any partition.
    pub replication_factor: Option<usize>,
    /// The lowest number of in-sync replicas of any partition, and that partition.
    pub in_sync: Option<(usize, i32)>,
    /// Why no event can be written to it.
    pub unwritable: Option<String>,
    /// A problem of the topic, or why its description is incomplete.
    pub error: Option<String>,
    /// The configuration entries that the outbox depends on.
    #[serde(default)]
    pub config: BTreeMap<String, Option<String>>,
}

impl TopicDescription {
    /// Marks the topic as unwritable if a partition has fewer in-sync replicas than the topic requires.
    pub fn check_replicas(&mut self) {
        let required = self.config.get("min.insync.replicas").cloned().flatten();
        let required = required.and_then(|text| text.parse::<usize>().ok());
        let (Some(required), Some((in_sync, partition))) = (required, self.in_sync) else { return };
        if in_sync < required && self.unwritable.is_none() {
            let why = format!(
                "partition {partition} has {in_sync} in-sync replicas, but min.insync.replicas is {required}"
            );
            self.unwritable = Some(why.clone());
            self.error = Some(why);
        }
    }
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The kind, for programs.
    pub kind: FailureKind,
    /// The primary error message.
    pub message: String,
    /// The error detail: a sentence, or librdkafka's text.
    pub detail: String,
}

/// The kinds of failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The topic already exists.
    Exists,
    /// Kafka refused the request.
    Invalid,
    /// The relay's Kafka user lacks a right.
    Denied,
    /// The topic or partition does not exist, or may not be read.
    Unreadable,
    /// The partition does not have the offset.
    OutOfRange,
    /// No broker answered.
    Unreachable,
    /// The relay is not ready to send the request.
    Waiting,
    /// No client can be created from the settings.
    Misconfigured,
    /// Anything else.
    Other,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_sql_functions_write() {
        let create = r#"{"create_topic": {"name": "a", "partitions": -1, "replication_factor": 3, "config": {"retention.ms": 1, "x": "y", "z": true}}}"#;
        let Action::CreateTopic { create_topic } = serde_json::from_str(create).unwrap() else { panic!() };
        let config = create_topic.config_texts();
        assert_eq!(config, [("retention.ms", "1".into()), ("x", "y".into()), ("z", "true".into())]);
        let describe = r#"{"describe_topics": ["a", null], "and_those_met": true}"#;
        let describe_topics = vec![Some("a".into()), None];
        let expected = Action::DescribeTopics { describe_topics, and_those_met: true };
        assert_eq!(serde_json::from_str::<Action>(describe).unwrap(), expected);
        let peek = r#"{"peek": {"topic": "a", "partition": 1, "offset": 2, "max": 3}}"#;
        let expected = Action::Peek { peek: Peek { topic: "a".into(), partition: 1, offset: 2, max: 3 } };
        assert_eq!(serde_json::from_str::<Action>(peek).unwrap(), expected);
        for wrong in ["null", "{}", r#"{"delete_topic": "a"}"#, r#"{"describe_topics": "a"}"#] {
            assert!(serde_json::from_str::<Action>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_answer_survives_its_transport() {
        let topic = TopicDescription { topic: "a".into(), partitions: Some(3), ..Default::default() };
        let offset =
            ListedOffset { topic: "a".into(), partition: Some(3), offset: Some(7), ..Default::default() };
        for answer in [
            Answer::Ok(None),
            Answer::Ok(Some(Found::Topics(vec![topic]))),
            Answer::Ok(Some(Found::Offsets(vec![offset]))),
            Answer::Ok(Some(Found::Records(Peeked { records: Vec::new(), at_end: true }))),
            Answer::failed(FailureKind::Denied, "no", "It says no."),
        ] {
            assert_eq!(serde_json::from_str::<Answer>(&answer.to_json()).unwrap(), answer);
        }
    }

    #[test]
    fn a_topic_short_of_replicas_is_unwritable() {
        let config = BTreeMap::from([("min.insync.replicas".into(), Some("2".into()))]);
        let mut topic = TopicDescription { in_sync: Some((2, 0)), config, ..Default::default() };
        topic.check_replicas();
        assert_eq!(topic.unwritable, None);
        topic.in_sync = Some((1, 4));
        topic.check_replicas();
        let why = "partition 4 has 1 in-sync replicas, but min.insync.replicas is 2";
        assert_eq!((topic.unwritable.as_deref(), topic.error.as_deref()), (Some(why), Some(why)));
    }
}
