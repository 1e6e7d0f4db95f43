//! A producer of librdkafka, as the Kafka thread uses it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use event_outbox_policy::event::draft::Event;
use event_outbox_policy::event::envelope::Envelope;
use rdkafka::ClientContext;
use rdkafka::bindings as rdsys;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, Producer, PurgeConfig};

use super::broker_recovery::BrokerRecovery;
use super::callbacks::Context;
use super::known_topics::KnownTopics;
use super::record::{Record, Topic};
use crate::kafka::wakeup_fd::WakeupFd;

/// How long to let librdkafka work when its queue is full.
const QUEUE_FULL_PAUSE: Duration = Duration::from_millis(10);

/// A producer whose callbacks take notes, and which rings when there is something to serve.
pub struct Client {
    // Before the producer, so that it is given back before the producer ends.
    queue: MainQueue,
    producer: BaseProducer<Context>,
    recovery: BrokerRecovery,
}

impl Client {
    /// Has `wakeup` rung when there is something to serve.
    ///
    /// # Errors
    /// librdkafka's, if it does not take the configuration.
    pub fn open(config: &ClientConfig, context: Context, wakeup: &WakeupFd) -> Result<Self, KafkaError> {
        let producer: BaseProducer<Context> = BaseProducer::from_config_and_context(config, context)?;
        let queue = MainQueue::of(&producer, wakeup);
        Ok(Self { queue, producer, recovery: BrokerRecovery::new(config) })
    }

    /// Hands events to librdkafka, each given with the place of its topic in `topics`. What becomes of them is noted, now
    /// or later.
    pub fn produce<'e>(
        &self,
        events: impl Iterator<Item = (usize, Event<'e>)>,
        topics: &[Arc<str>],
        envelope: &Envelope,
    ) {
        let mut opened: Vec<Option<KafkaResult<Topic<'_>>>> = topics.iter().map(|_| None).collect();
        for (place, event) in events {
            let topic = opened[place].get_or_insert_with(|| Topic::open(&self.producer, &topics[place]));
            let done = topic.as_ref().map_err(KafkaError::clone);
            let done = done.and_then(|topic| self.put(topic, Record::new(&event, envelope)));
            if let Err(error) = done {
                self.producer.context().failed(event.id, event.topic, &error);
            }
        }
    }

    fn put(&self, topic: &Topic<'_>, mut record: Record<'_>) -> KafkaResult<()> {
        loop {
            match topic.put(&mut record) {
                Err(KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)) => {
                    // The window is smaller than the queue; should it fill nevertheless, the order of
                    // what follows must not suffer.
                    std::thread::sleep(QUEUE_FULL_PAUSE);
                    self.serve();
                }
                done => return done,
            }
        }
    }

    /// librdkafka's handle, for what is done to it on purpose in tests.
    #[must_use]
    pub fn handle(&self) -> *mut rdsys::rd_kafka_t {
        self.queue.client
    }

    /// Which of these topics do not exist, as far as Kafka says so. `None` if it does not answer.
    #[must_use]
    pub fn find_missing(
        &self,
        known_topics: &mut KnownTopics,
        topics: &[Arc<str>],
        timeout: Duration,
    ) -> Option<HashSet<Arc<str>>> {
        // SAFETY: the client is alive.
        unsafe { known_topics.find_missing(self.handle(), topics, timeout) }
    }

    /// Lets librdkafka's callbacks take their notes, until there is nothing to note.
    pub fn serve(&self) {
        // The queue's bell rings once for all that has arrived since the last look, so look to the end.
        while self.queue.length() > 0 {
            self.producer.poll(Duration::ZERO);
        }
    }

    /// Whether everything handed over has been reported.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.producer.in_flight_count() == 0
    }

    /// Reminds librdkafka of its brokers, if need be and if it is time. `none_answers`: it has asked them, and waited.
    pub fn recover_brokers(&mut self, none_answers: bool) {
        self.recovery.check(&self.producer, none_answers);
    }

    /// When it will be time.
    #[must_use]
    pub fn next_recovery(&self) -> Option<Instant> {
        (!self.is_idle()).then(|| self.recovery.next_check())
    }

    /// Why it takes no more events, if it does not, and in words.
    #[must_use]
    pub fn fatal_error(&self) -> Option<(RDKafkaErrorCode, String)> {
        self.producer.client().fatal_error()
    }

    /// Gives up what is not on its way to a broker. librdkafka does so itself when it stops, but what was refused
    /// for the gap alone it then keeps, to be tried again, and never does.
    pub fn purge_queued(&self) {
        self.producer.purge(PurgeConfig::default().queue().non_blocking());
    }

    /// Asks anew about a topic, waiting for the answer.
    pub fn refresh(&self, topic: &str, timeout: Duration) {
        // What could not be learned now is asked for at the next refusal.
        let _ = self.producer.client().fetch_metadata(Some(topic), timeout);
    }

    /// Asks for the metadata of `topic`, one that is in use, and waits for the answer, which any broker can give.
    ///
    /// librdkafka's request for the metadata of all topics in use lets the brokers create those that were deleted meanwhile,
    /// whatever `allow.auto.create.topics` says: `rd_kafka_metadata()` sets it when all of them are cached (2.12.1).
    #[must_use]
    pub fn broker_answers(&self, topic: Option<&str>, timeout: Duration) -> bool {
        match topic {
            Some(_) => self.producer.client().fetch_metadata(topic, timeout).is_ok(),
            None => query_any_broker(self.producer.client(), timeout).is_ok(),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // What has not been sent need not be: the next producer sends it.
        self.producer.purge(PurgeConfig::default().queue().inflight().non_blocking());
    }
}

/// librdkafka's queue of events for the application, and the handle it belongs to.
struct MainQueue {
    queue: *mut rdsys::rd_kafka_queue_t,
    client: *mut rdsys::rd_kafka_t,
}

impl MainQueue {
    /// Has `wakeup` rung when something arrives.
    fn of(producer: &BaseProducer<Context>, wakeup: &WakeupFd) -> Self {
        let client = producer.client().native_ptr();
        let one = 1_u64.to_ne_bytes();
        // SAFETY: the client is alive. librdkafka copies the bytes and writes them to the descriptor, which
        // outlives the producer since the thread owns it.
        unsafe {
            let queue = rdsys::rd_kafka_queue_get_main(client);
            rdsys::rd_kafka_queue_io_event_enable(queue, wakeup.fd(), one.as_ptr().cast(), one.len());
            Self { queue, client }
        }
    }

    fn length(&self) -> usize {
        // SAFETY: the queue is held until `drop`.
        unsafe { rdsys::rd_kafka_queue_length(self.queue) }
    }
}

impl Drop for MainQueue {
    fn drop(&mut self) {
        // SAFETY: gives back the reference that `of` took.
        unsafe { rdsys::rd_kafka_queue_destroy(self.queue) }
    }
}

/// Asks a client that has no topics for its metadata, which any broker can answer, and waits for it.
///
/// # Errors
/// Why none did.
pub fn query_any_broker<C: ClientContext>(
    client: &rdkafka::client::Client<C>,
    timeout: Duration,
) -> Result<(), KafkaError> {
    let mut metadata = std::ptr::null();
    let millis = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the client is alive; the metadata is freed if it was given.
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
