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

/// Has a partition that is being read from the end of its last record read from there anew, once Kafka has confirmed that
/// record. Nothing is handed over before. If Kafka's log has others, the partition reports that.
///
/// # Errors
/// librdkafka's reason, if it could not begin. It does not know the topic yet, mostly.
pub fn to_verified(
    client: *mut rdsys::rd_kafka_t,
    assigned: &Assigned,
    last: LastRead,
) -> Result<(), String> {
    let name = CString::new(&*assigned.topic).map_err(|_| "the topic's name has a zero byte".to_owned())?;
    let millis = i32::try_from(BEGIN.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the client is alive. The list has one element, and is destroyed here, as is the error.
    unsafe {
        let list = rdsys::rd_kafka_topic_partition_list_new(1);
        let place = rdsys::rd_kafka_topic_partition_list_add(list, name.as_ptr(), assigned.partition);
        (*place).offset = last.end;
        rdsys::rd_kafka_topic_partition_set_leader_epoch(place, last.leader_epoch);
        let error = rdsys::rd_kafka_seek_partitions(client, list, millis);
        let code = match error.is_null() {
            true => Code::from((*place).err),
            false => Code::from(rdsys::rd_kafka_error_code(error)),
        };
        if !error.is_null() {
            rdsys::rd_kafka_error_destroy(error);
        }
        rdsys::rd_kafka_topic_partition_list_destroy(list);
        if code == Code::NoError { Ok(()) } else { Err(code.to_string()) }
    }
}
