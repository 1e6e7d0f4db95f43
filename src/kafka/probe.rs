//! Asks whether any broker answers.
//!
//! Runs in: any thread that owns a client.

use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::bindings as rdsys;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// Requests the metadata of a client that has no topics, and waits for the answer. Any broker can answer.
///
/// # Errors
/// librdkafka's error, if no broker answered.
pub fn query_any_broker<C: ClientContext>(
    client: &rdkafka::client::Client<C>,
    timeout: Duration,
) -> Result<(), KafkaError> {
    let mut metadata = std::ptr::null();
    let millis = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the client is alive; the metadata is freed if there is any.
    let code = unsafe {
        let code =
            rdsys::rd_kafka_metadata(client.native_ptr(), 0, std::ptr::null_mut(), &mut metadata, millis);
        if !metadata.is_null() {
            rdsys::rd_kafka_metadata_destroy(metadata);
        }
        code
    };
    match RDKafkaErrorCode::from(code) {
        RDKafkaErrorCode::NoError => Ok(()),
        code => Err(KafkaError::MetadataFetch(code)),
    }
}
