//! Asks for offsets of partitions: the first, the next, and that of a time.
//!
//! Runs in: any thread that owns a client.

use std::ffi::{CStr, CString};
use std::ptr;
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::bindings as rdsys;
use rdkafka::client::Client;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

/// Which offset of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// The first one that Kafka has.
    Earliest,
    /// The one after the last record that every consumer may read: the next one, or the first of a transaction that is open.
    Latest,
    /// That of the first record with this timestamp or a later one, in milliseconds since 1970.
    Timestamp(i64),
}

impl At {
    fn spec(self) -> i64 {
        match self {
            // RD_KAFKA_OFFSET_SPEC_EARLIEST and RD_KAFKA_OFFSET_SPEC_LATEST.
            Self::Earliest => -2,
            Self::Latest => -1,
            Self::Timestamp(millis) => millis.max(0),
        }
    }
}

/// The offset of a partition, or why it is not known. A time after the last record has no offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionOffset {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: Result<Option<i64>, String>,
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
    unsafe { list_by(client.native_ptr(), partitions, at, timeout) }
}

/// # Safety
/// The client must be alive.
unsafe fn list_by(
    client: *mut rdsys::rd_kafka_t,
    partitions: &[(String, i32)],
    at: At,
    timeout: Duration,
) -> Result<Vec<PartitionOffset>, KafkaError> {
    let millis = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the client is alive. All objects created here are destroyed here. librdkafka copies names, and destroys an
    // event that arrives after the queue is gone.
    unsafe {
        let asked =
            rdsys::rd_kafka_topic_partition_list_new(i32::try_from(partitions.len()).unwrap_or(i32::MAX));
        for (topic, partition) in partitions {
            if let Ok(name) = CString::new(&**topic) {
                (*rdsys::rd_kafka_topic_partition_list_add(asked, name.as_ptr(), *partition)).offset =
                    at.spec();
            }
        }
        let queue = rdsys::rd_kafka_queue_new(client);
        let options = rdsys::rd_kafka_AdminOptions_new(
            client,
            rdsys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTOFFSETS,
        );
        rdsys::rd_kafka_AdminOptions_set_request_timeout(options, millis, ptr::null_mut(), 0);
        // An error says that the option does not fit the request, which it does.
        let error = rdsys::rd_kafka_AdminOptions_set_isolation_level(
            options,
            rdsys::rd_kafka_IsolationLevel_t::RD_KAFKA_ISOLATION_LEVEL_READ_COMMITTED,
        );
        if !error.is_null() {
            rdsys::rd_kafka_error_destroy(error);
        }
        rdsys::rd_kafka_ListOffsets(client, asked, options, queue);
        let event = rdsys::rd_kafka_queue_poll(queue, millis);
        let found =
            if event.is_null() { Err(KafkaError::OffsetFetch(Code::OperationTimedOut)) } else { read(event) };
        if !event.is_null() {
            rdsys::rd_kafka_event_destroy(event);
        }
        rdsys::rd_kafka_AdminOptions_destroy(options);
        rdsys::rd_kafka_queue_destroy(queue);
        rdsys::rd_kafka_topic_partition_list_destroy(asked);
        found
    }
}

/// Reads Kafka's answer.
///
/// # Safety
/// The event must be alive.
unsafe fn read(event: *mut rdsys::rd_kafka_event_t) -> Result<Vec<PartitionOffset>, KafkaError> {
    // SAFETY: the event's data lives as long as the event, and is only read here. Names are C strings.
    unsafe {
        let code = Code::from(rdsys::rd_kafka_event_error(event));
        let result = rdsys::rd_kafka_event_ListOffsets_result(event);
        if code != Code::NoError || result.is_null() {
            return Err(KafkaError::OffsetFetch(code));
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
                    Err(code.to_string())
                },
            }
        };
        Ok((0..count).map(offset).collect())
    }
}
