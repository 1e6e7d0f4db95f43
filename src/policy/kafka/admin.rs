//! What people ask of Kafka through the relay, and what it answers.
//!
//! Both are JSON documents, since they cross from one process to another:
//!
//! | request | `ok` of the answer |
//! |---|---|
//! | `{"create_topic": {"name", "partitions", "replication_factor", "config": {…}}}` | `null` |
//! | `{"describe_topics": ["name", …], "and_those_met": bool}` | `[{"topic", "partitions", …, "error"}, …]` |
//!
//! A request that failed is answered by `{"error": {"kind", "message", "detail"}}`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A request, and the time that Kafka has to answer it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    timeout_ms: u64,
    /// What to do.
    pub action: Action,
}

impl Request {
    /// To be answered within `timeout`.
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

/// What Kafka is to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum Action {
    /// Create a topic.
    CreateTopic {
        /// Which.
        create_topic: NewTopic,
    },
    /// Describe topics.
    DescribeTopics {
        /// Their names.
        describe_topics: Vec<Option<String>>,
        /// And those that the relay has met.
        #[serde(default)]
        and_those_met: bool,
    },
}

/// A topic to create.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// Partitions; -1 for the brokers' default.
    pub partitions: i32,
    /// Replicas of each partition; -1 for the brokers' default.
    pub replication_factor: i32,
    /// Its configuration: strings, numbers and booleans.
    #[serde(default)]
    pub config: BTreeMap<String, Value>,
}

impl NewTopic {
    /// The configuration as Kafka takes it: all values are texts.
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
    /// It was done: the topics that were asked about, if any were.
    Ok(Option<Vec<TopicDescription>>),
    /// It failed.
    Error(Failure),
}

impl Answer {
    /// A request that failed.
    #[must_use]
    pub fn failed(kind: FailureKind, message: &str, detail: &str) -> Self {
        Self::Error(Failure { kind, message: message.into(), detail: detail.into() })
    }

    /// The document.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// What Kafka says of a topic.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TopicDescription {
    /// Its name.
    pub topic: String,
    /// Partitions; `None` if there is no such topic.
    pub partitions: Option<usize>,
    /// The fewest replicas of a partition.
    pub replication_factor: Option<usize>,
    /// The fewest replicas in sync of a partition, and of which.
    pub in_sync: Option<(usize, i32)>,
    /// Why nothing can be written to it.
    pub unwritable: Option<String>,
    /// What is wrong with it, or could not be learned.
    pub error: Option<String>,
    /// The part of its configuration that an outbox depends on.
    #[serde(default)]
    pub config: BTreeMap<String, Option<String>>,
}

impl TopicDescription {
    /// Says so if a partition has fewer replicas in sync than the topic requires.
    pub fn check_replicas(&mut self) {
        let required = self.config.get("min.insync.replicas").cloned().flatten();
        let required = required.and_then(|text| text.parse::<usize>().ok());
        let (Some(required), Some((in_sync, partition))) = (required, self.in_sync) else { return };
        if in_sync < required && self.unwritable.is_none() {
            let why = format!(
                "partition {partition} has {in_sync} of the {required} replicas in sync that it needs"
            );
            self.unwritable = Some(why.clone());
            self.error = Some(why);
        }
    }
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// For programs.
    pub kind: FailureKind,
    /// In words: the primary message of an error.
    pub message: String,
    /// A sentence, or what librdkafka says.
    pub detail: String,
}

/// The kinds of failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// What was to be created exists.
    Exists,
    /// Kafka refused the request.
    Invalid,
    /// The relay's Kafka user lacks a right.
    Denied,
    /// No broker answered.
    Unreachable,
    /// The relay cannot ask now.
    Waiting,
    /// No client can be made of the settings.
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
        for wrong in ["null", "{}", r#"{"delete_topic": "a"}"#, r#"{"describe_topics": "a"}"#] {
            assert!(serde_json::from_str::<Action>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_answer_survives_its_way() {
        let topic = TopicDescription { topic: "a".into(), partitions: Some(3), ..Default::default() };
        for answer in [
            Answer::Ok(None),
            Answer::Ok(Some(vec![topic])),
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
        let why = "partition 4 has 1 of the 2 replicas in sync that it needs";
        assert_eq!((topic.unwritable.as_deref(), topic.error.as_deref()), (Some(why), Some(why)));
    }
}
