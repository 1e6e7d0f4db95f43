//! Owns one librdkafka producer and its queue.
//!
//! Runs in: the Kafka thread.

use std::sync::Arc;
use std::time::{Duration, Instant};

use event_outbox_policy::event::draft::Event;
use event_outbox_policy::event::envelope::Envelope;
use rdkafka::bindings as rdsys;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, Producer, PurgeConfig};

use super::broker_recovery::BrokerRecovery;
use super::callbacks::Context;
use super::record::{Record, Topic};
use crate::kafka::connections;
use crate::kafka::probe::PATIENCE;
use crate::kafka::question::Question;
use crate::kafka::wakeup_fd::WakeupFd;

/// How long to wait when librdkafka's queue is full.
const QUEUE_FULL_PAUSE: Duration = Duration::from_millis(10);

/// A producer that sets a wakeup when it has callbacks to serve.
pub struct Client {
    /// The open question about topics whose partitions may have changed.
    refresh: Option<Question>,
    // These are declared before the producer, so that they are released before the producer ends.
    queue: MainQueue,
    producer: BaseProducer<Context>,
    recovery: BrokerRecovery,
}

impl Client {
    /// Creates a producer, which sets `wakeup` when it has callbacks to serve.
    ///
    /// # Errors
    /// librdkafka's error, if it does not accept the configuration.
    pub fn open(config: &ClientConfig, context: Context, wakeup: &WakeupFd) -> Result<Self, KafkaError> {
        let producer: BaseProducer<Context> = BaseProducer::from_config_and_context(config, context)?;
        // SAFETY: the client is alive.
        unsafe { connections::pace(producer.client().native_ptr()) };
        let queue = MainQueue::of(&producer, wakeup);
        Ok(Self { refresh: None, queue, producer, recovery: BrokerRecovery::new(config) })
    }

    /// Hands events to librdkafka, each with the place of its topic in `topics`. The context notes the outcome of each, now
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
                    // The window is smaller than the queue. If the queue fills nevertheless, the events must keep their
                    // order, so wait for room.
                    std::thread::sleep(QUEUE_FULL_PAUSE);
                    self.serve();
                }
                done => return done,
            }
        }
    }

    /// The producer, for its transactions.
    #[must_use]
    pub fn producer(&self) -> &BaseProducer<Context> {
        &self.producer
    }

    /// librdkafka's handle.
    #[must_use]
    pub fn handle(&self) -> *mut rdsys::rd_kafka_t {
        self.queue.client
    }

    /// Asks which of these topics exist. The answer sets `wakeup`. Drop the question before the client.
    #[must_use]
    pub fn ask_about_topics(&self, topics: &[Arc<str>], patience: Duration, wakeup: &WakeupFd) -> Question {
        let names: Vec<String> = topics.iter().map(ToString::to_string).collect();
        // SAFETY: the client is alive, and the caller drops the question first.
        unsafe { Question::about_topics(self.handle(), &names, patience) }.waking(wakeup)
    }

    /// Asks whether Kafka answers. It names no topic in use on purpose: librdkafka's request for all of those lets the brokers
    /// create those that were deleted meanwhile, whatever `allow.auto.create.topics` says: `rd_kafka_metadata()` allows it
    /// if the metadata of all of them is cached (2.12.1).
    #[must_use]
    pub fn ask_about_brokers(&self, patience: Duration, wakeup: &WakeupFd) -> Question {
        // SAFETY: the client is alive, and the caller drops the question first.
        unsafe { Question::about_brokers(self.handle(), patience) }.waking(wakeup)
    }

    /// Runs librdkafka's callbacks until none is waiting.
    pub fn serve(&self) {
        // librdkafka sets the wakeup once for all that has arrived, so empty the queue.
        while self.queue.length() > 0 {
            self.producer.poll(Duration::ZERO);
        }
    }

    /// Whether all events that were produced have been reported.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.producer.in_flight_count() == 0
    }

    /// Checks whether librdkafka has lost its brokers, if that is due. `none_answers` says that a probe has failed.
    pub fn recover_brokers(&mut self, none_answers: bool) {
        self.recovery.check(&self.producer, none_answers);
    }

    /// When the next check is due, if events are in flight.
    #[must_use]
    pub fn next_recovery(&self) -> Option<Instant> {
        (!self.is_idle()).then(|| self.recovery.next_check())
    }

    /// Why the producer accepts no more events, if it has stopped: the code and the text.
    #[must_use]
    pub fn fatal_error(&self) -> Option<(RDKafkaErrorCode, String)> {
        self.producer.client().fatal_error()
    }

    /// Purges the events that are not on their way to a broker. librdkafka does so itself when it stops. But afterwards it
    /// requeues the events that the broker refused only because of the gap, and never sends them.
    pub fn purge_queued(&self) {
        self.producer.purge(PurgeConfig::default().queue().non_blocking());
    }

    /// Refreshes what librdkafka knows of these topics: it reads the answer to any question about topics. If none comes, the next
    /// refusal causes another question.
    pub fn refresh(&mut self, topics: &[String], wakeup: &WakeupFd) {
        // SAFETY: the client is alive, and outlives the question, which it owns.
        self.refresh =
            Some(unsafe { Question::about_topics(self.handle(), topics, PATIENCE) }.waking(wakeup));
    }

    /// Whether such a question is open.
    pub fn is_refreshing(&mut self) -> bool {
        self.refresh.take_if(|question| question.answer_within(Duration::ZERO).is_some());
        self.refresh.is_some()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Do not wait until the remaining events are sent: the next producer sends them.
        self.producer.purge(PurgeConfig::default().queue().inflight().non_blocking());
    }
}

/// librdkafka's queue of callbacks for the application, and its client.
struct MainQueue {
    queue: *mut rdsys::rd_kafka_queue_t,
    client: *mut rdsys::rd_kafka_t,
}

impl MainQueue {
    /// The client's queue. It sets `wakeup` when a callback arrives.
    fn of(producer: &BaseProducer<Context>, wakeup: &WakeupFd) -> Self {
        let client = producer.client().native_ptr();
        let one = 1_u64.to_ne_bytes();
        // SAFETY: the client is alive. librdkafka copies the bytes and writes them to the descriptor. The thread owns
        // the descriptor, so it outlives the producer.
        unsafe {
            let queue = rdsys::rd_kafka_queue_get_main(client);
            rdsys::rd_kafka_queue_io_event_enable(queue, wakeup.fd(), one.as_ptr().cast(), one.len());
            Self { queue, client }
        }
    }

    fn length(&self) -> usize {
        // SAFETY: this object holds a reference to the queue until `drop`.
        unsafe { rdsys::rd_kafka_queue_length(self.queue) }
    }
}

impl Drop for MainQueue {
    fn drop(&mut self) {
        // SAFETY: releases the reference that `of` took.
        unsafe { rdsys::rd_kafka_queue_destroy(self.queue) }
    }
}
