//! Looks up topics: which exist, their ids, and their numbers of partitions.
//!
//! Runs in: any thread that owns a client.

use std::ffi::CStr;
use std::time::Duration;

use event_outbox_policy::event::topic;
use event_outbox_policy::inbox::topics;
use rdkafka::ClientContext;
use rdkafka::bindings as rdsys;
use rdkafka::client::Client;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use super::question::{Answer, Question};

/// A topic that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundTopic {
    /// Its name.
    pub topic: String,
    /// Its id, which a topic that was created again does not share. `None` if the brokers are too old to have ids.
    pub id: Option<String>,
    /// The number of partitions.
    pub partitions: i32,
    /// The partitions that no broker leads at present. Nothing can be read or written there.
    pub leaderless: Vec<i32>,
}

/// The topics that were looked up: those found, and the names of the others with the error.
pub type LookedUp = (Vec<FoundTopic>, Vec<(String, Code)>);

/// Looks up the topics of these names. `None` if Kafka does not answer within `timeout`.
#[must_use]
pub fn describe<C: ClientContext>(
    client: &Client<C>,
    names: &[String],
    timeout: Duration,
) -> Option<LookedUp> {
    if names.is_empty() {
        return Some(LookedUp::default());
    }
    // SAFETY: the client is alive through the call.
    unsafe { describe_by(client.native_ptr(), names, timeout) }
}

/// The names of all topics that match a pattern, without Kafka's own.
///
/// # Errors
/// Kafka's error, or that it did not answer within `timeout`.
pub fn matching<C: ClientContext>(
    client: &Client<C>,
    pattern: &str,
    timeout: Duration,
) -> Result<Vec<String>, KafkaError> {
    let metadata = client.fetch_metadata(None, timeout)?;
    let names = metadata.topics().iter().map(|topic| topic.name());
    let wanted = names.filter(|name| topic::is_valid(name) && topics::matches(pattern, name));
    Ok(wanted.map(str::to_owned).collect())
}

/// The same for a client of librdkafka.
///
/// # Safety
/// The client must be alive.
#[must_use]
pub unsafe fn describe_by(
    client: *mut rdsys::rd_kafka_t,
    names: &[String],
    timeout: Duration,
) -> Option<LookedUp> {
    // SAFETY: the client is alive.
    let question = unsafe { Question::about_topics(client, names, timeout) };
    read(&question.answer_within(timeout)?)
}

/// The topics of an answer to [`Question::about_topics`]. `None` if it is none.
#[must_use]
pub fn read(answer: &Answer) -> Option<LookedUp> {
    if answer.code() != Code::NoError {
        return None;
    }
    let (mut found, mut missing) = LookedUp::default();
    // SAFETY: the answer's data lives as long as the answer, and is only read here. Texts are C strings.
    unsafe {
        let result = rdsys::rd_kafka_event_DescribeTopics_result(answer.event());
        if result.is_null() {
            return None;
        }
        let mut count = 0;
        let described = rdsys::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        for place in 0..count {
            let topic = *described.add(place);
            let name =
                CStr::from_ptr(rdsys::rd_kafka_TopicDescription_name(topic)).to_string_lossy().into_owned();
            match Code::from(rdsys::rd_kafka_error_code(rdsys::rd_kafka_TopicDescription_error(topic))) {
                Code::NoError => {
                    let mut count = 0;
                    let infos = rdsys::rd_kafka_TopicDescription_partitions(topic, &raw mut count);
                    let leaderless = (0..count)
                        .map(|place| *infos.add(place))
                        .filter(|info| rdsys::rd_kafka_TopicPartitionInfo_leader(*info).is_null())
                        .map(|info| rdsys::rd_kafka_TopicPartitionInfo_partition(info))
                        .collect();
                    let partitions = i32::try_from(count).unwrap_or(i32::MAX);
                    found.push(FoundTopic { topic: name, id: id_of(topic), partitions, leaderless });
                }
                code => missing.push((name, code)),
            }
        }
    }
    Some((found, missing))
}

/// The topic's id; `None` if it has none.
///
/// # Safety
/// The description must be alive.
unsafe fn id_of(topic: *const rdsys::rd_kafka_TopicDescription_t) -> Option<String> {
    // SAFETY: as promised by the caller. The text belongs to the id.
    unsafe {
        let id = rdsys::rd_kafka_TopicDescription_topic_id(topic);
        if id.is_null() {
            return None;
        }
        let text = rdsys::rd_kafka_Uuid_base64str(id);
        let is_zero = rdsys::rd_kafka_Uuid_most_significant_bits(id) == 0
            && rdsys::rd_kafka_Uuid_least_significant_bits(id) == 0;
        (!text.is_null() && !is_zero).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
    }
}
