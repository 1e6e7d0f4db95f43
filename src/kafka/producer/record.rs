//! A record on its way into librdkafka's queue.
//!
//! By librdkafka's own functions. The crate's way copies the name of the topic and of each header into a C string and looks
//! the topic up under a lock, for each record.

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

/// librdkafka's `RD_KAFKA_PARTITION_UA`: the key chooses.
const KEYS_PARTITION: i32 = -1;

/// Headers that a list has room for before it grows: the envelope's, and some of the author's.
const USUAL_HEADERS: usize = 8;

/// A topic, as a producer knows it.
pub struct Topic<'p> {
    client: *mut rdsys::rd_kafka_t,
    handle: NonNull<rdsys::rd_kafka_topic_t>,
    producer: PhantomData<&'p BaseProducer<Context>>,
}

impl<'p> Topic<'p> {
    /// Finds it, or makes the producer ask for it.
    ///
    /// # Errors
    /// librdkafka's, if it does not take the name.
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

    /// Puts the record into the producer's queue, unless there was an error: then it can be tried again.
    ///
    /// # Errors
    /// librdkafka's, as far as it knows already that the record cannot be sent.
    pub fn put(&self, record: &mut Record<'_>) -> KafkaResult<()> {
        let Record { event, headers } = record;
        let (payload, payload_bytes) = raw(event.payload.as_deref());
        let (key, key_bytes) = raw(event.key.as_deref());
        // SAFETY: client and topic are alive. Payload and key are copied; the headers are librdkafka's if it succeeds. The
        // opaque value is that of `Context`, an id as a pointer that nobody follows.
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
        // SAFETY: gives back the handle that `open` took, while the producer lives.
        unsafe { rdsys::rd_kafka_topic_destroy(self.handle.as_ptr()) }
    }
}

/// The Kafka record of an event.
pub struct Record<'e> {
    event: &'e Event<'e>,
    headers: Headers,
}

impl<'e> Record<'e> {
    /// With the envelope's headers and the author's.
    #[must_use]
    pub fn new(event: &'e Event<'e>, envelope: &Envelope) -> Self {
        let mut headers = Headers { list: ptr::null_mut() };
        envelope.write(event, |name, value| headers.add(name, value));
        Self { event, headers }
    }
}

/// librdkafka's list of headers; none, if there are none.
struct Headers {
    list: *mut rdsys::rd_kafka_headers_t,
}

impl Headers {
    fn add(&mut self, name: &str, value: Option<&[u8]>) {
        let (value, bytes) = raw(value);
        // SAFETY: the list is ours; name and value are copied. It cannot fail.
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
            // SAFETY: it is still ours.
            unsafe { rdsys::rd_kafka_headers_destroy(self.list) }
        }
    }
}

/// As librdkafka takes bytes: what is null has no address, what is empty has one.
fn raw(bytes: Option<&[u8]>) -> (*mut c_void, usize) {
    bytes.map_or((ptr::null_mut(), 0), |bytes| (bytes.as_ptr().cast_mut().cast(), bytes.len()))
}
