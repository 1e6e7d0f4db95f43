//! Owns one librdkafka consumer, the queue of its records, and the partitions that it reads.
//!
//! It uses librdkafka's functions for consumers without a group. These need no coordinator and no rights on a group, and
//! they stop and start single partitions.
//!
//! Runs in: the Kafka thread.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::ptr;
use std::time::Duration;

use rdkafka::bindings as rdsys;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use super::callbacks::Context;
use super::message::{self, Problem};
use super::messages::{Assigned, Fetched};
use super::seek;
use crate::kafka::connections;
use crate::kafka::question::{At, Question};
use crate::kafka::wakeup_fd::WakeupFd;

/// How many messages are taken from librdkafka's queue at once, at most.
const MESSAGES: usize = 500;

/// What a message is taken for until some have come: as large as Kafka allows by default.
const LARGE: usize = 1 << 20;

/// A consumer that sets a wakeup when it has records or callbacks to serve.
pub struct Client {
    // Declared before the consumer, so that they are released before the consumer ends.
    reading: Option<Reading>,
    main_queue: Queue,
    consumer: BaseConsumer<Context>,
}

impl Client {
    /// Creates a consumer, which sets `wakeup` when it has records or callbacks to serve.
    ///
    /// # Errors
    /// librdkafka's error, if it does not accept the configuration.
    pub fn open(config: &ClientConfig, context: Context, wakeup: &WakeupFd) -> Result<Self, KafkaError> {
        let consumer: BaseConsumer<Context> = BaseConsumer::from_config_and_context(config, context)?;
        let client = consumer.client().native_ptr();
        // SAFETY: the client is alive, and outlives the queue.
        let main_queue = unsafe {
            connections::pace(client);
            Queue::of(rdsys::rd_kafka_queue_get_main(client), wakeup)
        };
        Ok(Self { reading: None, main_queue, consumer })
    }

    /// Reads these partitions from now on, and no others. Returns those that cannot be read, each with the reason. Those whose
    /// last record is known are not read before [`Client::verify`].
    pub fn assign(&mut self, partitions: &[Assigned], wakeup: &WakeupFd) -> Vec<Problem> {
        // First, because a partition cannot be read twice.
        self.reading = None;
        let client = self.consumer.client().native_ptr();
        // SAFETY: the client is alive, and outlives the queue.
        let queue = unsafe { Queue::of(rdsys::rd_kafka_queue_new(client), wakeup) };
        let mut reading = Reading { topics: Vec::new(), queue, unverified: Vec::new(), largest: LARGE };
        let start = |assigned: &Assigned| match reading.assign(client, assigned) {
            Ok(()) => None,
            Err(cause) => Some(Problem::Other(assigned.number, cause)),
        };
        let problems = partitions.iter().filter_map(start).collect();
        self.reading = Some(reading);
        problems
    }

    /// Begins to read the partitions whose last record is known, as soon as Kafka confirms that its log has that record still.
    /// librdkafka must know the topics: it learns of them from answers about topics. Returns the partitions of which it does
    /// not, and those that cannot be read, each with the reason.
    pub fn verify(&mut self) -> Vec<Problem> {
        let client = self.consumer.client().native_ptr();
        self.reading.as_mut().map_or_else(Vec::new, |reading| reading.verify(client))
    }

    /// Takes the records that have arrived, until they have `bytes`. Returns what partitions reported besides, and whether
    /// nothing is left.
    pub fn read(&mut self, fetched: &mut Fetched, bytes: usize) -> (Vec<Problem>, bool) {
        let mut problems = Vec::new();
        let Some(reading) = &mut self.reading else { return (problems, true) };
        while fetched.records.bytes() < bytes {
            let room = bytes - fetched.records.bytes();
            if !reading.read_some(fetched, room, &mut problems) {
                return (problems, true);
            }
        }
        (problems, false)
    }

    /// Runs librdkafka's callbacks until none is waiting.
    pub fn serve(&self) {
        // librdkafka sets the wakeup once for all that has arrived, so empty the queue.
        while self.main_queue.length() > 0 {
            // Without a group, records never arrive here.
            let _ = self.consumer.poll(Duration::ZERO);
        }
    }

    /// The first offset that Kafka has of a partition, and the one that it will give to the next record.
    ///
    /// # Errors
    /// Kafka's error, or that it did not answer.
    pub fn watermarks(
        &self,
        topic: &str,
        partition: i32,
        timeout: Duration,
    ) -> Result<(i64, i64), KafkaError> {
        self.consumer.fetch_watermarks(topic, partition, timeout)
    }

    /// Asks whether Kafka answers. The answer sets `wakeup`. Drop the question before the client.
    #[must_use]
    pub fn ask_about_brokers(&self, patience: Duration, wakeup: &WakeupFd) -> Question {
        // SAFETY: the client is alive, and the caller drops the question first.
        unsafe { Question::about_brokers(self.inner().native_ptr(), patience) }.waking(wakeup)
    }

    /// Asks which of these topics exist. The answer sets `wakeup`. Drop the question before the client.
    #[must_use]
    pub fn ask_about_topics(&self, names: &[String], patience: Duration, wakeup: &WakeupFd) -> Question {
        // SAFETY: the client is alive, and the caller drops the question first.
        unsafe { Question::about_topics(self.inner().native_ptr(), names, patience) }.waking(wakeup)
    }

    /// Asks for offsets of partitions. The answer sets `wakeup`. Drop the question before the client.
    #[must_use]
    pub fn ask_about_offsets(
        &self,
        partitions: &[(String, i32)],
        at: At,
        patience: Duration,
        wakeup: &WakeupFd,
    ) -> Question {
        let client = self.inner().native_ptr();
        // SAFETY: the client is alive, and the caller drops the question first.
        unsafe { Question::about_offsets(client, partitions, at, patience) }.waking(wakeup)
    }

    /// The client, for requests.
    #[must_use]
    pub fn inner(&self) -> &rdkafka::client::Client<Context> {
        self.consumer.client()
    }
}

/// The partitions that are read, and the queue of their records.
struct Reading {
    topics: Vec<OpenTopic>,
    // Declared after the topics, so that it is released after they are stopped.
    queue: Queue,
    /// The partitions that are read once Kafka has confirmed the last record.
    unverified: Vec<Assigned>,
    /// The bytes of the largest of the last messages, about.
    largest: usize,
}

impl Reading {
    fn assign(&mut self, client: *mut rdsys::rd_kafka_t, assigned: &Assigned) -> Result<(), String> {
        let place = match self.topics.iter().position(|topic| topic.name == assigned.topic) {
            Some(place) => place,
            None => {
                self.topics.push(OpenTopic::open(client, &assigned.topic)?);
                self.topics.len() - 1
            }
        };
        if assigned.last_read.is_some() {
            self.unverified.push(assigned.clone());
            Ok(())
        } else {
            self.topics[place].start(assigned, assigned.offset, &self.queue)
        }
    }

    fn verify(&mut self, client: *mut rdsys::rd_kafka_t) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut started = Vec::new();
        for assigned in std::mem::take(&mut self.unverified) {
            let topic = self.topics.iter_mut().find(|topic| topic.name == assigned.topic);
            let Some((topic, last)) = topic.zip(assigned.last_read) else { continue };
            // Between the last record and the offset to read next there are no records.
            match topic.start(&assigned, last.end, &self.queue) {
                Ok(()) => started.push((assigned, last)),
                Err(cause) => {
                    problems.push(Problem::Other(assigned.number, cause));
                    self.unverified.push(assigned);
                }
            }
        }
        let begun = seek::to_verified(client, &started);
        for ((assigned, _), begun) in started.into_iter().zip(begun) {
            let Err(cause) = begun else { continue };
            if let Some(topic) = self.topics.iter_mut().find(|topic| topic.name == assigned.topic) {
                topic.stop(&assigned);
            }
            problems.push(Problem::Other(assigned.number, cause));
            self.unverified.push(assigned);
        }
        problems
    }

    /// Takes some messages: as many as there is room for if they are like the last ones. Returns whether there were any.
    fn read_some(&mut self, fetched: &mut Fetched, room: usize, problems: &mut Vec<Problem>) -> bool {
        let mut messages: [*mut rdsys::rd_kafka_message_t; MESSAGES] = [ptr::null_mut(); MESSAGES];
        let most = (room / self.largest.max(1)).clamp(1, MESSAGES);
        // SAFETY: the queue is alive, and the array has room for this many messages. Each is destroyed below.
        let count =
            unsafe { rdsys::rd_kafka_consume_batch_queue(self.queue.0, 0, messages.as_mut_ptr(), most) };
        let count = usize::try_from(count).unwrap_or(0);
        // Ends of partitions, which are small, may come between large records.
        self.largest /= 2;
        for message in &messages[..count] {
            // SAFETY: librdkafka has returned this message, which is alive until it is destroyed.
            unsafe {
                self.largest = self.largest.max((**message).len.saturating_add((**message).key_len));
                if let Some(number) = self.number_of(&**message) {
                    message::take(*message, number, fetched, problems);
                }
                rdsys::rd_kafka_message_destroy(*message);
            }
        }
        count > 0
    }

    /// The number of a message's partition.
    fn number_of(&self, message: &rdsys::rd_kafka_message_t) -> Option<i32> {
        let topic = self.topics.iter().find(|topic| ptr::eq(topic.handle, message.rkt))?;
        topic.numbers.get(&message.partition).copied()
    }
}

/// A topic of which partitions are read.
struct OpenTopic {
    name: String,
    handle: *mut rdsys::rd_kafka_topic_t,
    /// The number of each partition that is read.
    numbers: BTreeMap<i32, i32>,
}

impl OpenTopic {
    fn open(client: *mut rdsys::rd_kafka_t, name: &str) -> Result<Self, String> {
        let text = CString::new(name).map_err(|_| "the topic's name has a zero byte".to_owned())?;
        // SAFETY: the client is alive; the name is copied; a null configuration means the default one.
        let handle = unsafe { rdsys::rd_kafka_topic_new(client, text.as_ptr(), ptr::null_mut()) };
        if handle.is_null() {
            Err(last_error())
        } else {
            Ok(Self { name: name.into(), handle, numbers: BTreeMap::new() })
        }
    }

    fn start(&mut self, assigned: &Assigned, offset: i64, queue: &Queue) -> Result<(), String> {
        // SAFETY: topic and queue are alive.
        let code =
            unsafe { rdsys::rd_kafka_consume_start_queue(self.handle, assigned.partition, offset, queue.0) };
        if code != 0 {
            return Err(last_error());
        }
        self.numbers.insert(assigned.partition, assigned.number);
        Ok(())
    }

    fn stop(&mut self, assigned: &Assigned) {
        if self.numbers.remove(&assigned.partition).is_some() {
            // SAFETY: the topic is alive, and this partition was started.
            unsafe { rdsys::rd_kafka_consume_stop(self.handle, assigned.partition) };
        }
    }
}

impl Drop for OpenTopic {
    fn drop(&mut self) {
        // SAFETY: the topic is alive until it is destroyed here; these partitions were started.
        unsafe {
            for partition in self.numbers.keys() {
                rdsys::rd_kafka_consume_stop(self.handle, *partition);
            }
            rdsys::rd_kafka_topic_destroy(self.handle);
        }
    }
}

/// The error of the last call of librdkafka on this thread.
fn last_error() -> String {
    // SAFETY: reads a variable of this thread.
    Code::from(unsafe { rdsys::rd_kafka_last_error() }).to_string()
}

/// A queue of librdkafka. It sets the wakeup when something arrives in it while it is empty.
struct Queue(*mut rdsys::rd_kafka_queue_t);

impl Queue {
    /// # Safety
    /// The reference to the queue passes to this object, which must not outlive the client. The wakeup must outlive the
    /// client.
    unsafe fn of(queue: *mut rdsys::rd_kafka_queue_t, wakeup: &WakeupFd) -> Self {
        let one = 1_u64.to_ne_bytes();
        // SAFETY: the queue is alive; librdkafka copies the bytes.
        unsafe { rdsys::rd_kafka_queue_io_event_enable(queue, wakeup.fd(), one.as_ptr().cast(), one.len()) };
        Self(queue)
    }

    fn length(&self) -> usize {
        // SAFETY: this object holds a reference to the queue.
        unsafe { rdsys::rd_kafka_queue_length(self.0) }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: releases this object's reference.
        unsafe { rdsys::rd_kafka_queue_destroy(self.0) }
    }
}
