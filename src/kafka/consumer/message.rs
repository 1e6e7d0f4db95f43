//! Takes what librdkafka hands over: records, ends of partitions, and errors.
//!
//! Runs in: the Kafka thread.

use std::ffi::{CStr, c_void};
use std::ptr;

use event_outbox_policy::inbox::data_loss;
use event_outbox_policy::inbox::records::RecordRef;
use rdkafka::bindings as rdsys;
use rdkafka::error::RDKafkaErrorCode as Code;

use super::messages::{Fetched, LastRead};

/// What a partition reported instead of a record.
#[derive(Debug)]
pub enum Problem {
    /// Kafka does not have the next record.
    Lost(LostPlace),
    /// Something else: the partition's number, and librdkafka's text.
    Other(i32, String),
}

/// A place from which Kafka has no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LostPlace {
    /// The partition's number.
    pub number: i32,
    /// The offset; negative if it is not known.
    pub offset: i64,
    /// How Kafka's log differs from the one that was read, if it does.
    pub truncation: Option<Truncation>,
}

/// Kafka's log has other records than before at offsets that were read, or has none there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Truncation {
    /// The first of these offsets, if it is known.
    pub from: Option<i64>,
}

/// Takes a message: a record, the end of a partition, or an error.
///
/// # Safety
/// The message must be alive.
pub unsafe fn take(
    message: *mut rdsys::rd_kafka_message_t,
    number: i32,
    fetched: &mut Fetched,
    problems: &mut Vec<Problem>,
) {
    // SAFETY: the message is alive, and so are its parts.
    unsafe {
        let offset = (*message).offset;
        match Code::from((*message).err) {
            Code::NoError => {
                let mut kind = rdsys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
                let timestamp = rdsys::rd_kafka_message_timestamp(message, &raw mut kind);
                let record = RecordRef {
                    partition: number,
                    offset,
                    timestamp_ms: (timestamp >= 0).then_some(timestamp),
                    key: bytes((*message).key, (*message).key_len),
                    value: bytes((*message).payload, (*message).len),
                    headers: &[],
                };
                fetched.records.push_with_headers(record, Headers::of(message));
                let leader_epoch = rdsys::rd_kafka_message_leader_epoch(message);
                fetched.note_last(number, LastRead { leader_epoch, end: offset + 1 });
            }
            Code::PartitionEOF => fetched.ends.push((number, offset)),
            Code::AutoOffsetReset | Code::OffsetOutOfRange => {
                let truncation = truncation(message);
                problems.push(Problem::Lost(LostPlace { number, offset, truncation }));
            }
            code => problems.push(Problem::Other(number, code.to_string())),
        }
    }
}

/// How Kafka's log differs from the one that was read, if librdkafka says so. It says it in words alone.
///
/// # Safety
/// The message must be alive.
unsafe fn truncation(message: *const rdsys::rd_kafka_message_t) -> Option<Truncation> {
    // SAFETY: the message is alive; its text and that of the code are C strings, or null.
    unsafe {
        let text = rdsys::rd_kafka_message_errstr(message);
        let sign = rdsys::rd_kafka_err2str(rdsys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__LOG_TRUNCATION);
        if text.is_null() || sign.is_null() {
            return None;
        }
        let (text, sign) = (CStr::from_ptr(text).to_string_lossy(), CStr::from_ptr(sign).to_string_lossy());
        text.contains(&*sign).then(|| Truncation { from: data_loss::broker_end_offset(&text) })
    }
}

/// # Safety
/// The pointer is null, or points to this many bytes, which live as long as the message.
unsafe fn bytes<'a>(pointer: *mut c_void, length: usize) -> Option<&'a [u8]> {
    // SAFETY: as promised by the caller.
    (!pointer.is_null()).then(|| unsafe { std::slice::from_raw_parts(pointer.cast::<u8>(), length) })
}

/// The headers of a message.
struct Headers<'a> {
    headers: *mut rdsys::rd_kafka_headers_t,
    next: usize,
    message: std::marker::PhantomData<&'a ()>,
}

impl Headers<'_> {
    /// # Safety
    /// The message must outlive the headers.
    unsafe fn of(message: *mut rdsys::rd_kafka_message_t) -> Self {
        let mut headers = ptr::null_mut();
        // SAFETY: the message is alive. Without headers the pointer stays null.
        unsafe { rdsys::rd_kafka_message_headers(message, &raw mut headers) };
        Self { headers, next: 0, message: std::marker::PhantomData }
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.headers.is_null() {
            return None;
        }
        let (mut name, mut value, mut length) = (ptr::null(), ptr::null(), 0);
        // SAFETY: the headers belong to the message, which is alive. The name is a C string, and the value is null or has
        // this many bytes.
        unsafe {
            let code = rdsys::rd_kafka_header_get_all(
                self.headers,
                self.next,
                &raw mut name,
                &raw mut value,
                &raw mut length,
            );
            if Code::from(code) != Code::NoError {
                return None;
            }
            self.next += 1;
            Some((CStr::from_ptr(name).to_bytes(), bytes(value.cast_mut(), length)))
        }
    }
}
