//! The Kafka thread: takes batches, produces them, and tells what became of them.
//!
//! It sleeps until the main thread rings or librdkafka has something to serve; it never polls for time,
//! except while no broker answers, when it looks for one now and then.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError};
use event_outbox_domain::envelope::Envelope;
use event_outbox_domain::event::Event;
use event_outbox_domain::outcome::Outcome;
use rdkafka::bindings as rdsys;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, PurgeConfig};
use rdkafka::types::RDKafkaConfRes;

use super::context::Context;
use super::doorbell::Doorbell;
use super::publisher::News;
use crate::failpoints;

/// Time for a broker to answer whether it is there.
const PROBE_TIMEOUT: Duration = Duration::from_millis(1000);

/// First and longest time between two such questions.
const PROBE_AFTER: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// Messages produced between two looks at what came back.
const SERVE_EVERY: usize = 256;

/// How long to let librdkafka work when its queue is full.
const QUEUE_FULL_PAUSE: Duration = Duration::from_millis(10);

/// Everything the thread owns.
pub struct KafkaThread {
    config: ClientConfig,
    envelope: Envelope,
    batches: Receiver<Vec<Event>>,
    news: Sender<News>,
    call: Arc<Doorbell>,
    bell: Arc<Doorbell>,
}

impl KafkaThread {
    /// To be run on a thread of its own: `call` is the bell it answers, `bell` the one it rings.
    #[must_use]
    pub fn new(
        config: ClientConfig,
        envelope: Envelope,
        batches: Receiver<Vec<Event>>,
        news: Sender<News>,
        call: Arc<Doorbell>,
        bell: Arc<Doorbell>,
    ) -> Self {
        Self { config, envelope, batches, news, call, bell }
    }

    /// Makes the producer and works until the main thread lets go of its channels.
    pub fn run(self) {
        let _ringing = RingAtEnd(self.bell.clone());
        match Session::open(&self) {
            Ok(mut session) => while session.turn().is_ok() {},
            Err(error) => {
                // Should the main thread be gone, nobody needs to know.
                let _ = self.news.send(News::Broken(without_values(&error)));
                self.bell.ring();
            }
        }
    }
}

/// An error in words, but for the values of properties: they may be secrets.
fn without_values(error: &KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, _, name, _) => {
            format!("librdkafka knows no property \"{name}\"")
        }
        KafkaError::ClientConfig(_, _, name, _) => format!("the value of property \"{name}\" is not valid"),
        other => other.to_string(),
    }
}

/// However the thread ends, the main thread is told to look.
struct RingAtEnd(Arc<Doorbell>);

impl Drop for RingAtEnd {
    fn drop(&mut self) {
        self.0.ring();
    }
}

/// The main thread is gone.
struct Closed;

/// A producer at work.
struct Session<'a> {
    thread: &'a KafkaThread,
    // Before the producer, so that it is given back before the producer ends.
    queue: MainQueue,
    producer: BaseProducer<Context>,
    /// While it is not known that a broker answers.
    probe: Option<Probe>,
}

/// When to look for a broker next.
struct Probe {
    at: Instant,
    pause: Duration,
}

impl Probe {
    fn soon() -> Self {
        Self { at: Instant::now(), pause: PROBE_AFTER.0 }
    }

    fn later(&mut self) {
        self.at = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(PROBE_AFTER.1);
    }
}

impl<'a> Session<'a> {
    fn open(thread: &'a KafkaThread) -> Result<Self, KafkaError> {
        let producer: BaseProducer<Context> =
            BaseProducer::from_config_and_context(&thread.config, Context::default())?;
        let queue = MainQueue::of(&producer, &thread.call);
        Ok(Self { thread, queue, producer, probe: Some(Probe::soon()) })
    }

    /// One turn: sleep until there is something to do, do it, tell of it.
    fn turn(&mut self) -> Result<(), Closed> {
        self.serve();
        self.tell()?;
        self.sleep();
        self.thread.call.answer();
        self.take_batches()?;
        self.refresh_topics();
        self.look_for_broker()
    }

    fn take_batches(&mut self) -> Result<(), Closed> {
        loop {
            match self.thread.batches.try_recv() {
                Ok(batch) => self.produce(&batch)?,
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => return Err(Closed),
            }
        }
    }

    fn produce(&mut self, batch: &[Event]) -> Result<(), Closed> {
        for events in batch.chunks(SERVE_EVERY) {
            for event in events {
                self.produce_one(event);
            }
            self.serve();
            self.tell()?;
        }
        failpoints::after_produce(self.queue.client);
        Ok(())
    }

    fn produce_one(&self, event: &Event) {
        loop {
            match self.producer.send(record(event, &self.thread.envelope)) {
                Ok(()) => return,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                    // The window is smaller than the queue; should it fill nevertheless, the order of
                    // what follows must not suffer.
                    std::thread::sleep(QUEUE_FULL_PAUSE);
                    self.serve();
                }
                Err((error, _)) => return self.producer.context().failed(event.id, &event.topic, &error),
            }
        }
    }

    /// Lets librdkafka's callbacks take their notes, until there is nothing to note.
    fn serve(&self) {
        // The queue's bell rings once for all that has arrived since the last look, so look to the end.
        while self.queue.length() > 0 {
            self.producer.poll(Duration::ZERO);
        }
    }

    /// Tells the main thread what was noted.
    fn tell(&mut self) -> Result<(), Closed> {
        let (reports, trouble, fatal) = {
            let mut notes = self.producer.context().notes();
            (std::mem::take(&mut notes.reports), std::mem::take(&mut notes.trouble), notes.fatal.take())
        };
        let delivered = reports.iter().any(|report| matches!(report.outcome, Outcome::Delivered { .. }));
        if !reports.is_empty() {
            self.send(News::Reports(reports))?;
        }
        if let Some(reason) = fatal {
            self.send(News::Broken(reason))?;
        }
        if delivered && self.probe.is_some() {
            self.connected()?;
        }
        if std::mem::take(&mut self.producer.context().notes().has_spoken) {
            self.thread.bell.ring();
        }
        if trouble {
            self.probe.get_or_insert_with(Probe::soon);
        }
        Ok(())
    }

    /// Sends and rings. Where there is no room, the main thread is behind: it is waited for.
    fn send(&self, news: News) -> Result<(), Closed> {
        let sent = match self.thread.news.try_send(news) {
            Err(TrySendError::Full(news)) => {
                self.thread.bell.ring();
                self.thread.news.send(news).map_err(|_| Closed)
            }
            other => other.map_err(|_| Closed),
        };
        self.thread.bell.ring();
        sent
    }

    /// Asks anew about topics for which an event was refused: partitions may have been added, of which the
    /// producer would else learn within minutes only. The refused event's next attempt then finds them.
    fn refresh_topics(&self) {
        let stale = std::mem::take(&mut self.producer.context().notes().stale_topics);
        for topic in stale {
            // What could not be learned now is asked for at the next refusal.
            let _ = self.producer.client().fetch_metadata(Some(&topic), PROBE_TIMEOUT);
        }
    }

    /// While it is not known that a broker answers: asks, when it is time.
    fn look_for_broker(&mut self) -> Result<(), Closed> {
        if self.probe.as_ref().is_none_or(|probe| probe.at > Instant::now()) {
            return Ok(());
        }
        if self.queue.broker_answers(PROBE_TIMEOUT) {
            return self.connected();
        }
        self.serve();
        if let Some(probe) = &mut self.probe {
            probe.later();
        }
        let cause = self.producer.context().notes().cause.clone();
        // Told at each try: the cause may have become another.
        self.send(News::Disconnected(cause.unwrap_or_else(|| "no answer in time".into())))
    }

    fn connected(&mut self) -> Result<(), Closed> {
        self.probe = None;
        self.producer.context().notes().cause = None;
        self.send(News::Connected)
    }

    /// Until the main thread rings, librdkafka does, or it is time to look for a broker.
    fn sleep(&self) {
        let timeout = self.probe.as_ref().map_or(-1, |probe| {
            let left = probe.at.saturating_duration_since(Instant::now()).as_micros().div_ceil(1000);
            i32::try_from(left).unwrap_or(i32::MAX)
        });
        let mut wait = libc::pollfd { fd: self.thread.call.fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one descriptor, which lives as long as the thread.
        unsafe { libc::poll(&mut wait, 1, timeout) };
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        // What has not been sent need not be: the next producer sends it.
        self.producer.purge(PurgeConfig::default().queue().inflight().non_blocking());
    }
}

/// The Kafka record of an event.
fn record<'e>(event: &'e Event, envelope: &Envelope) -> BaseRecord<'e, [u8], [u8], usize> {
    const MICROS_PER_MILLI: i64 = 1000;
    let mut headers = Some(OwnedHeaders::new());
    envelope.write(event, |name, value| {
        headers = headers.take().map(|headers| headers.insert(Header { key: name, value }));
    });
    let mut record = BaseRecord::with_opaque_to(&event.topic, event.id.cast_unsigned() as usize);
    record.headers = headers;
    record.partition = event.partition;
    record.key = event.key.as_deref();
    record.payload = event.payload.as_deref();
    record.timestamp = Some(event.emitted_at.div_euclid(MICROS_PER_MILLI));
    record
}

/// librdkafka's queue of events for the application, and the handle it belongs to.
struct MainQueue {
    queue: *mut rdsys::rd_kafka_queue_t,
    client: *mut rdsys::rd_kafka_t,
}

impl MainQueue {
    /// Has `call` rung when something arrives.
    fn of(producer: &BaseProducer<Context>, call: &Doorbell) -> Self {
        let client = producer.client().native_ptr();
        let one = 1_u64.to_ne_bytes();
        // SAFETY: the client is alive. librdkafka copies the bytes and writes them to the descriptor, which
        // outlives the producer since the thread owns it.
        unsafe {
            let queue = rdsys::rd_kafka_queue_get_main(client);
            rdsys::rd_kafka_queue_io_event_enable(queue, call.fd(), one.as_ptr().cast(), one.len());
            Self { queue, client }
        }
    }

    fn length(&self) -> usize {
        // SAFETY: the queue is held until `drop`.
        unsafe { rdsys::rd_kafka_queue_length(self.queue) }
    }

    /// Asks for the metadata of the topics in use, which any broker can answer.
    fn broker_answers(&self, timeout: Duration) -> bool {
        let mut metadata = std::ptr::null();
        let millis = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the client outlives the queue; the metadata is freed if it was given.
        unsafe {
            let code = rdsys::rd_kafka_metadata(self.client, 0, std::ptr::null_mut(), &mut metadata, millis);
            if !metadata.is_null() {
                rdsys::rd_kafka_metadata_destroy(metadata);
            }
            code == rdsys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
        }
    }
}

impl Drop for MainQueue {
    fn drop(&mut self) {
        // SAFETY: gives back the reference that `of` took.
        unsafe { rdsys::rd_kafka_queue_destroy(self.queue) }
    }
}
