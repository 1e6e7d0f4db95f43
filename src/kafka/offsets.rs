//! Asks for offsets of partitions: the first, the next, and that of a time.
//!
//! Runs in: any thread that owns a client.

use std::ffi::CStr;
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::bindings as rdsys;
use rdkafka::client::Client;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

pub use super::question::At;
use super::question::{Answer, Question};

/// The offset of a partition, or why it is not known. A time after the last record has no offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionOffset {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: Result<Option<i64>, Code>,
}

/// The offsets of partitions.
///
/// # Errors
/// Kafka's error, or that it did not answer within `timeout`.
pub fn list<C: ClientContext>(
    client: &Client<C>,
    partitions: &[(String, i32)],
    at: At,
    timeout: Duration,
) -> Result<Vec<PartitionOffset>, KafkaError> {
    if partitions.is_empty() {
        return Ok(Vec::new());
    }
    // SAFETY: the client is alive through the call.
    let question = unsafe { Question::about_offsets(client.native_ptr(), partitions, at, timeout) };
    let answer = question.answer_within(timeout);
    read(&answer.ok_or(KafkaError::OffsetFetch(Code::OperationTimedOut))?)
}

/// The offsets of an answer to [`Question::about_offsets`].
///
/// # Errors
/// Kafka's error, or that it did not answer.
pub fn read(answer: &Answer) -> Result<Vec<PartitionOffset>, KafkaError> {
    // SAFETY: the answer's data lives as long as the answer, and is only read here. Names are C strings.
    unsafe {
        let result = rdsys::rd_kafka_event_ListOffsets_result(answer.event());
        if answer.code() != Code::NoError || result.is_null() {
            return Err(KafkaError::OffsetFetch(answer.code()));
        }
        let mut count = 0;
        let infos = rdsys::rd_kafka_ListOffsets_result_infos(result, &raw mut count);
        let offset = |place| {
            let partition = &*rdsys::rd_kafka_ListOffsetsResultInfo_topic_partition(*infos.add(place));
            let code = Code::from(partition.err);
            PartitionOffset {
                topic: CStr::from_ptr(partition.topic).to_string_lossy().into_owned(),
                partition: partition.partition,
                offset: if code == Code::NoError {
                    Ok(Some(partition.offset).filter(|offset| *offset >= 0))
                } else {
                    Err(code)
                },
            }
        };
        Ok((0..count).map(offset).collect())
    }
}
