//! Puts records into librdkafka's queue.
//!
//! It calls librdkafka's own functions. For each record, the crate would copy the names of the topic and of each header into
//! C strings, and look the topic up under a lock.
//!
//! Runs in: the Kafka thread.

use std::ffi::{CString, c_void};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};

use event_outbox_policy::event::draft::Event;
use event_outbox_policy::event::envelope::Envelope;
use rdkafka::bindings as rdsys;
use rdkafka::bindings::rd_kafka_vtype_t as Part;
use rdkafka::error::{IsError, KafkaError, KafkaResult};
use rdkafka::producer::{BaseProducer, Producer};

use super::callbacks::Context;

const MICROS_PER_MILLI: i64 = 1000;

/// librdkafka's `RD_KAFKA_PARTITION_UA`: the key determines the partition.
const KEYS_PARTITION: i32 = -1;

/// The initial capacity of a list of headers: enough for the envelope's and some of the author's.
const USUAL_HEADERS: usize = 8;

/// A producer's handle on a topic.
pub struct Topic<'p> {
    client: *mut rdsys::rd_kafka_t,
    handle: NonNull<rdsys::rd_kafka_topic_t>,
    producer: PhantomData<&'p BaseProducer<Context>>,
}

impl<'p> Topic<'p> {
    /// Gets the producer's handle on the topic. A topic that is new to the producer makes it request the topic's metadata.
    ///
    /// # Errors
    /// librdkafka's error, if it does not accept the name.
    pub fn open(producer: &'p BaseProducer<Context>, name: &str) -> KafkaResult<Self> {
        let (client, name) = (producer.client().native_ptr(), CString::new(name)?);
        // SAFETY: the client is alive; the name is copied; with no configuration the producer's own holds.
        let (handle, error) = unsafe {
            let handle = rdsys::rd_kafka_topic_new(client, name.as_ptr(), ptr::null_mut());
            (handle, rdsys::rd_kafka_last_error())
        };
        let handle = NonNull::new(handle).ok_or(KafkaError::MessageProduction(error.into()))?;
        Ok(Self { client, handle, producer: PhantomData })
    }

    /// Puts the record into the producer's queue. After an error it can be put again.
    ///
    /// # Errors
    /// librdkafka's error, if its queue is full or it already knows that the record cannot be sent.
    pub fn put(&self, record: &mut Record<'_>) -> KafkaResult<()> {
        let Record { event, headers } = record;
        let (payload, payload_bytes) = raw(event.payload.as_deref());
        let (key, key_bytes) = raw(event.key.as_deref());
        // SAFETY: client and topic are alive. Payload and key are copied. The headers belong to librdkafka if the call
        // succeeds. The opaque value is that of `Context`: an id as a pointer that is never dereferenced.
        let error = unsafe {
            rdsys::rd_kafka_producev(
                self.client,
                Part::RD_KAFKA_VTYPE_RKT,
                self.handle.as_ptr(),
                Part::RD_KAFKA_VTYPE_PARTITION,
                event.partition.unwrap_or(KEYS_PARTITION),
                Part::RD_KAFKA_VTYPE_MSGFLAGS,
                rdsys::RD_KAFKA_MSG_F_COPY,
                Part::RD_KAFKA_VTYPE_VALUE,
                payload,
                payload_bytes,
                Part::RD_KAFKA_VTYPE_KEY,
                key,
                key_bytes,
                Part::RD_KAFKA_VTYPE_OPAQUE,
                ptr::without_provenance_mut::<c_void>(event.id.cast_unsigned() as usize),
                Part::RD_KAFKA_VTYPE_TIMESTAMP,
                event.record_time.div_euclid(MICROS_PER_MILLI),
                Part::RD_KAFKA_VTYPE_HEADERS,
                headers.list,
                Part::RD_KAFKA_VTYPE_END,
            )
        };
        if error.is_error() {
            return Err(KafkaError::MessageProduction(error.into()));
        }
        headers.list = ptr::null_mut();
        Ok(())
    }
}

impl Drop for Topic<'_> {
    fn drop(&mut self) {
        // SAFETY: releases the handle that `open` took, while the producer is alive.
        unsafe { rdsys::rd_kafka_topic_destroy(self.handle.as_ptr()) }
    }
}

/// The Kafka record of an event.
pub struct Record<'e> {
    event: &'e Event<'e>,
    headers: Headers,
}

impl<'e> Record<'e> {
    /// The record, with the envelope's headers and the author's.
    #[must_use]
    pub fn new(event: &'e Event<'e>, envelope: &Envelope) -> Self {
        let mut headers = Headers { list: ptr::null_mut() };
        envelope.write(event, |name, value| headers.add(name, value));
        Self { event, headers }
    }
}

/// librdkafka's list of headers; null if there are none.
struct Headers {
    list: *mut rdsys::rd_kafka_headers_t,
}

impl Headers {
    fn add(&mut self, name: &str, value: Option<&[u8]>) {
        let (value, bytes) = raw(value);
        // SAFETY: we own the list; name and value are copied. The calls cannot fail.
        unsafe {
            if self.list.is_null() {
                self.list = rdsys::rd_kafka_headers_new(USUAL_HEADERS);
            }
            let name = name.as_bytes();
            rdsys::rd_kafka_header_add(
                self.list,
                name.as_ptr().cast(),
                name.len().cast_signed(),
                value,
                bytes.cast_signed(),
            );
        }
    }
}

impl Drop for Headers {
    fn drop(&mut self) {
        if !self.list.is_null() {
            // SAFETY: we still own the list.
            unsafe { rdsys::rd_kafka_headers_destroy(self.list) }
        }
    }
}

/// Bytes in the form that librdkafka takes: null has no address, an empty value has one.
fn raw(bytes: Option<&[u8]>) -> (*mut c_void, usize) {
    bytes.map_or((ptr::null_mut(), 0), |bytes| (bytes.as_ptr().cast_mut().cast(), bytes.len()))
}
