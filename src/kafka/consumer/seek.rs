//! Seeks to a place that Kafka must confirm: whether its log still has the last record that was read. After an election of a
//! leader that lacked records, the offsets of these may have others by now, so an offset alone says nothing.
//!
//! Runs in: the Kafka thread.

use std::ffi::CString;
use std::time::Duration;

use rdkafka::bindings as rdsys;
use rdkafka::error::RDKafkaErrorCode as Code;

use super::messages::{Assigned, LastRead};

/// How long librdkafka may take to begin. It does not wait for Kafka meanwhile.
const BEGIN: Duration = Duration::from_secs(1);

/// Has partitions that are being read from the ends of their last records read from there anew, each once Kafka has confirmed
/// its record. Nothing is handed over before. If Kafka's log has others, the partition reports that. Returns for each whether
/// it has begun, or librdkafka's reason: it does not know the topic yet, mostly.
pub fn to_verified(
    client: *mut rdsys::rd_kafka_t,
    partitions: &[(Assigned, LastRead)],
) -> Vec<Result<(), String>> {
    if partitions.is_empty() {
        return Vec::new();
    }
    let millis = i32::try_from(BEGIN.as_millis()).unwrap_or(i32::MAX);
    let length = i32::try_from(partitions.len()).unwrap_or(i32::MAX);
    // SAFETY: the client is alive. The list is destroyed here, as is the error. Elements move when one is added, so none is
    // kept; they are read by their places afterwards.
    unsafe {
        let list = rdsys::rd_kafka_topic_partition_list_new(length);
        for (assigned, last) in partitions {
            // A topic that is open has a name without a zero byte.
            let name = CString::new(&*assigned.topic).unwrap_or_default();
            let place = rdsys::rd_kafka_topic_partition_list_add(list, name.as_ptr(), assigned.partition);
            (*place).offset = last.end;
            rdsys::rd_kafka_topic_partition_set_leader_epoch(place, last.leader_epoch);
        }
        let error = rdsys::rd_kafka_seek_partitions(client, list, millis);
        let failed = (!error.is_null()).then(|| Code::from(rdsys::rd_kafka_error_code(error)));
        if !error.is_null() {
            rdsys::rd_kafka_error_destroy(error);
        }
        let begun = (0..partitions.len()).map(|place| {
            let code = failed.unwrap_or_else(|| Code::from((*(*list).elems.add(place)).err));
            if code == Code::NoError { Ok(()) } else { Err(code.to_string()) }
        });
        let begun = begun.collect();
        rdsys::rd_kafka_topic_partition_list_destroy(list);
        begun
    }
}
