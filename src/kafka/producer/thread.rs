//! The Kafka thread: takes batches, produces them, and tells what became of them.
//!
//! It sleeps until the main thread rings or librdkafka has something to serve; it never polls for time,
//! except while no broker answers, when it looks for one now and then.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError};
use event_outbox_policy::delivery::outcome::Outcome;
use event_outbox_policy::event::envelope::Envelope;
use event_outbox_policy::event::event_batch::Packed;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::callbacks::Context;
use super::client::Client;
use super::existence::Existence;
use super::handle::{Batch, News};
use crate::failpoints;
use crate::kafka::config;
use crate::kafka::wakeup_fd::{Doorbell, RingAtEnd};

/// Time for a broker to answer whether it is there.
const PROBE_TIMEOUT: Duration = Duration::from_millis(1000);

/// First and longest time between two such questions.
const PROBE_AFTER: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// Messages produced between two looks at what came back.
const SERVE_EVERY: usize = 256;

/// Time between two looks at a producer that has stopped, until all its events have come back.
const STOPPED_LOOK: Duration = Duration::from_millis(5);

/// How long the producer apart is kept when it has nothing to do.
const APART_IDLE: Duration = Duration::from_secs(30);

/// How long the producers have had nothing to do when it is asked whether they know too much.
const FORGET_AFTER: Duration = Duration::from_secs(30);

/// Topics that a producer may know for ever, and those of them that do not exist.
const MOST_OPENED: usize = 2_000;
const MOST_GHOSTS: usize = 100;

/// Everything the thread owns.
pub struct KafkaThread {
    config: ClientConfig,
    envelope: Envelope,
    batches: Receiver<Batch>,
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
        batches: Receiver<Batch>,
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
                let _ = self.news.send(News::Broken(config::in_words(&self.config, &error)));
                self.bell.ring();
            }
        }
    }
}

/// The main thread is gone.
struct Closed;

/// Producers at work.
struct Session<'a> {
    thread: &'a KafkaThread,
    context: Context,
    /// Stops at the first gap in a sequence, so that nothing comes before what was refused.
    common: Client,
    /// For what is likely to be refused: it goes on. Made when there is such.
    apart: Option<Client>,
    /// Until when to keep it.
    apart_until: Instant,
    /// While it is not known that a broker answers.
    probe: Option<Probe>,
    /// A producer has stopped, and the main thread knows.
    stopped: bool,
    /// What the producers know of topics.
    existence: Existence,
    /// Kafka did not answer when it was asked about topics: not before it is known to answer again.
    unanswered: bool,
    /// When to look whether the producers know too much, unless they get something to do.
    forget_at: Option<Instant>,
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

    /// Whether there was no answer yet.
    fn has_failed(&self) -> bool {
        self.pause > PROBE_AFTER.0
    }

    fn later(&mut self) {
        self.at = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(PROBE_AFTER.1);
    }
}

impl<'a> Session<'a> {
    fn open(thread: &'a KafkaThread) -> Result<Self, KafkaError> {
        let context = Context::new(config::redactor(&thread.config));
        let common = Client::open(&thread.config, context.clone(), &thread.call)?;
        let (apart_until, probe) = (Instant::now(), Some(Probe::soon()));
        Ok(Self {
            thread,
            context,
            common,
            apart: None,
            apart_until,
            probe,
            stopped: false,
            existence: Existence::default(),
            unanswered: false,
            forget_at: None,
        })
    }

    /// One turn: sleep until there is something to do, do it, tell of it.
    fn turn(&mut self) -> Result<(), Closed> {
        self.serve();
        self.tell()?;
        self.sleep();
        self.thread.call.answer();
        self.take_batches()?;
        self.refresh_topics();
        self.tidy();
        self.remind();
        self.forget()?;
        self.look_for_broker()
    }

    fn take_batches(&mut self) -> Result<(), Closed> {
        loop {
            match self.thread.batches.try_recv() {
                Ok(Batch { common, apart }) => {
                    self.produce(&common, |session| Some(&session.common))?;
                    self.produce(&apart, Self::apart)?;
                }
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => return Err(Closed),
            }
        }
    }

    fn produce(
        &mut self,
        batch: &Packed,
        client: impl Fn(&mut Self) -> Option<&Client>,
    ) -> Result<(), Closed> {
        let missing = self.missing(batch.topics());
        let envelope = &self.thread.envelope;
        let context = self.context.clone();
        let mut events = batch.events().peekable();
        while events.peek().is_some() {
            let some = events.by_ref().take(SERVE_EVERY).filter(|(place, event)| {
                let is_missing = missing.contains(&batch.topics()[*place]);
                if is_missing {
                    let error = KafkaError::MessageProduction(RDKafkaErrorCode::UnknownTopic);
                    context.failed(event.id, event.topic, &error);
                }
                !is_missing
            });
            match client(self) {
                Some(client) => client.produce(some, batch.topics(), envelope),
                None => some.for_each(|(_, event)| self.context.put_off(event.id)),
            }
            self.serve();
            self.tell()?;
        }
        failpoints::after_produce(self.common.handle());
        Ok(())
    }

    /// Those of the topics for which no producer is given events, since they do not exist. The others are opened.
    fn missing(&mut self, topics: &[Arc<str>]) -> HashSet<Arc<str>> {
        self.forget_at = Some(Instant::now() + FORGET_AFTER);
        let mut missing = HashSet::new();
        // Where Kafka may create topics, it is the producer's question that makes it do so.
        if !self.unanswered && !config::creates_topics(&self.thread.config) {
            match self.common.missing(&mut self.existence, topics, PROBE_TIMEOUT) {
                Some(found) => missing = found,
                None => {
                    self.unanswered = true;
                    // It is asked again when a broker is known to answer.
                    self.probe.get_or_insert_with(Probe::soon);
                }
            }
        }
        self.existence.open(topics.iter().filter(|topic| !missing.contains(*topic)));
        missing
    }

    /// Tells the main thread if the producers have nothing to do, and know what they had better forget: too much, or
    /// topics that Kafka would create again, should they be deleted, when librdkafka asks about them.
    fn forget(&mut self) -> Result<(), Closed> {
        let gone = std::mem::take(&mut self.context.notes().gone_topics);
        gone.iter().for_each(|topic| self.existence.is_gone(topic));
        if self.forget_at.is_none_or(|at| at > Instant::now()) {
            return Ok(());
        }
        if !self.common.is_idle() || self.apart.as_ref().is_some_and(|apart| !apart.is_idle()) {
            self.forget_at = Some(Instant::now() + FORGET_AFTER);
            return Ok(());
        }
        self.forget_at = None;
        let (opened, ghosts) = (self.existence.opened(), self.existence.ghosts());
        let creates = config::creates_topics(&self.thread.config) && opened > 0;
        if creates || opened > MOST_OPENED || ghosts > MOST_GHOSTS {
            return self.send(News::Stale);
        }
        Ok(())
    }

    /// The producer apart, made now if need be.
    fn apart(&mut self) -> Option<&Client> {
        self.apart_until = Instant::now() + APART_IDLE;
        if self.apart.is_none() {
            let config = config::going_on(&self.thread.config);
            // It is the common one's configuration, which librdkafka has taken: what may lack is a thread.
            self.apart = Client::open(&config, self.context.clone(), &self.thread.call).ok();
        }
        self.apart.as_ref()
    }

    /// Calls back what the common producer holds if it has stopped. Gives the producer apart up when it has had
    /// nothing to do for a while.
    fn tidy(&mut self) {
        if self.is_stopping() {
            self.common.give_up_queued();
        }
        if Instant::now() >= self.apart_until && self.apart.as_ref().is_some_and(Client::is_idle) {
            self.apart = None;
        }
    }

    fn remind(&mut self) {
        let none_answers = self.probe.as_ref().is_some_and(Probe::has_failed);
        self.common.remind(none_answers);
        self.apart.iter_mut().for_each(|apart| apart.remind(none_answers));
    }

    /// Whether the common producer has stopped, and has events that are to come back.
    fn is_stopping(&self) -> bool {
        self.stopped && !self.common.is_idle()
    }

    fn serve(&self) {
        self.common.serve();
        self.apart.iter().for_each(Client::serve);
    }

    /// Tells the main thread what was noted.
    fn tell(&mut self) -> Result<(), Closed> {
        let (reports, trouble, stopped, has_spoken, statistics) = {
            let mut notes = self.context.notes();
            (
                std::mem::take(&mut notes.reports),
                std::mem::take(&mut notes.trouble),
                notes.stopped.take(),
                std::mem::take(&mut notes.has_spoken),
                notes.statistics.take(),
            )
        };
        // Before the reports, of which those of the refused batch are the reason.
        let fatal = if trouble || stopped.is_some() { self.fatal_error() } else { None };
        if fatal.is_some() || stopped.is_some() {
            self.tell_stopped(fatal, stopped.unwrap_or_default())?;
        }
        let delivered = reports.iter().any(|report| matches!(report.outcome, Outcome::Delivered { .. }));
        if !reports.is_empty() {
            self.send(News::Reports(reports))?;
        }
        if delivered && self.probe.is_some() {
            self.connected()?;
        }
        if has_spoken {
            self.thread.bell.ring();
        }
        if let Some(statistics) = statistics {
            self.send(News::Statistics(statistics))?;
        }
        if trouble {
            self.probe.get_or_insert_with(Probe::soon);
        }
        Ok(())
    }

    /// Why a producer takes no more events, if one does not, and in words.
    fn fatal_error(&self) -> Option<(RDKafkaErrorCode, String)> {
        let (code, reason) = self.common.fatal_error().or_else(|| self.apart.as_ref()?.fatal_error())?;
        Some((code, self.context.redact(&reason)))
    }

    /// A producer takes no more events. One that stopped at a gap has only kept its promise.
    fn tell_stopped(
        &mut self,
        fatal: Option<(RDKafkaErrorCode, String)>,
        reason: String,
    ) -> Result<(), Closed> {
        if std::mem::replace(&mut self.stopped, true) {
            return Ok(());
        }
        match fatal {
            Some((RDKafkaErrorCode::GaplessGuarantee, _)) => self.send(News::Gap),
            Some((_, reason)) => self.send(News::Broken(reason)),
            None => self.send(News::Broken(reason)),
        }
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
        let stale = std::mem::take(&mut self.context.notes().stale_topics);
        for topic in stale {
            self.common.refresh(&topic, PROBE_TIMEOUT);
            self.apart.iter().for_each(|apart| apart.refresh(&topic, PROBE_TIMEOUT));
        }
    }

    /// While it is not known that a broker answers: asks, when it is time.
    fn look_for_broker(&mut self) -> Result<(), Closed> {
        if self.probe.as_ref().is_none_or(|probe| probe.at > Instant::now()) {
            return Ok(());
        }
        if self.common.broker_answers(PROBE_TIMEOUT) {
            return self.connected();
        }
        self.serve();
        if let Some(probe) = &mut self.probe {
            probe.later();
        }
        let cause = self.context.notes().cause.clone();
        // Told at each try: the cause may have become another.
        self.send(News::Disconnected(cause.unwrap_or_else(|| "no answer in time".into())))
    }

    fn connected(&mut self) -> Result<(), Closed> {
        self.probe = None;
        self.unanswered = false;
        self.context.notes().cause = None;
        self.send(News::Connected)
    }

    /// Until the main thread rings, librdkafka does, or there is something to do without them.
    fn sleep(&self) {
        let probe = self.probe.as_ref().map(|probe| probe.at);
        let tidy = self.apart.as_ref().map(|_| self.apart_until);
        let look = self.is_stopping().then(|| Instant::now() + STOPPED_LOOK);
        let remind = std::iter::once(&self.common).chain(&self.apart).filter_map(Client::next_reminder).min();
        let timeout =
            [probe, tidy, look, remind, self.forget_at].into_iter().flatten().min().map_or(-1, |until| {
                let left = until.saturating_duration_since(Instant::now()).as_micros().div_ceil(1000);
                i32::try_from(left).unwrap_or(i32::MAX)
            });
        let mut wait = libc::pollfd { fd: self.thread.call.fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one descriptor, which lives as long as the thread.
        unsafe { libc::poll(&mut wait, 1, timeout) };
    }
}
