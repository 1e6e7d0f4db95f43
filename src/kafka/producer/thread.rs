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
use event_outbox_policy::event::event_batch::EventBatch;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::callbacks::Context;
use super::client::Client;
use super::known_topics::KnownTopics;
use super::messages::{ProduceBatch, ProducerEvent};
use crate::failpoints;
use crate::kafka::config;
use crate::kafka::wakeup_fd::{SetAtEnd, WakeupFd};

/// Time for a broker to answer whether it is there.
const PROBE_TIMEOUT: Duration = Duration::from_millis(1000);

/// First and longest time between two such questions.
const PROBE_AFTER: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// Messages produced between two looks at what came back.
const SERVE_EVERY: usize = 256;

/// Time between two looks at a producer that has stopped, until all its events have come back.
const STOPPED_CHECK: Duration = Duration::from_millis(5);

/// How long the quarantine producer is kept when it has nothing to do.
const QUARANTINE_IDLE: Duration = Duration::from_secs(30);

/// How long the producers have had nothing to do when it is asked whether they know too much.
const STALE_CHECK_AFTER: Duration = Duration::from_secs(30);

/// Topics that a producer may know for ever, and those of them that do not exist.
const MAX_OPENED: usize = 2_000;
const MAX_VANISHED: usize = 100;

/// What the thread is given: its ends of both channels, the descriptor that it sleeps on, and that of the main thread.
pub struct KafkaThread {
    pub(super) config: ClientConfig,
    pub(super) envelope: Envelope,
    pub(super) batches: Receiver<ProduceBatch>,
    pub(super) events: Sender<ProducerEvent>,
    pub(super) wakeup: Arc<WakeupFd>,
    pub(super) main_wakeup: Arc<WakeupFd>,
}

impl KafkaThread {
    /// Makes the producer and works until the main thread lets go of its channels.
    pub fn run(self) {
        let _wake = SetAtEnd(self.main_wakeup.clone());
        match Session::open(&self) {
            Ok(mut session) => while session.run_once().is_ok() {},
            Err(error) => {
                // Should the main thread be gone, nobody needs to know.
                let _ = self.events.send(ProducerEvent::Broken(config::describe_error(&self.config, &error)));
                self.main_wakeup.set();
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
    gapless: Client,
    /// For what is likely to be refused: it goes on. Made when there is such.
    quarantine: Option<Client>,
    /// Until when to keep it.
    quarantine_until: Instant,
    /// While it is not known that a broker answers.
    probe: Option<Probe>,
    /// A producer has stopped, and the main thread knows.
    stopped: bool,
    /// What the producers know of topics.
    known_topics: KnownTopics,
    /// Kafka did not answer when it was asked about topics: not before it is known to answer again.
    skip_topic_check: bool,
    /// When to look whether the producers know too much, unless they get something to do.
    stale_check_at: Option<Instant>,
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
        let gapless = Client::open(&thread.config, context.clone(), &thread.wakeup)?;
        let (quarantine_until, probe) = (Instant::now(), Some(Probe::soon()));
        Ok(Self {
            thread,
            context,
            gapless,
            quarantine: None,
            quarantine_until,
            probe,
            stopped: false,
            known_topics: KnownTopics::default(),
            skip_topic_check: false,
            stale_check_at: None,
        })
    }

    /// One turn: sleep until there is something to do, do it, tell of it.
    fn run_once(&mut self) -> Result<(), Closed> {
        self.serve();
        self.report()?;
        self.sleep();
        self.thread.wakeup.clear();
        self.take_batches()?;
        self.refresh_topics();
        self.clean_up();
        self.recover_brokers();
        self.check_stale_topics()?;
        self.probe_broker()
    }

    fn take_batches(&mut self) -> Result<(), Closed> {
        loop {
            match self.thread.batches.try_recv() {
                Ok(ProduceBatch { gapless, quarantine }) => {
                    self.produce(&gapless, |session| Some(&session.gapless))?;
                    self.produce(&quarantine, Self::quarantine)?;
                }
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => return Err(Closed),
            }
        }
    }

    fn produce(
        &mut self,
        batch: &EventBatch,
        client: impl Fn(&mut Self) -> Option<&Client>,
    ) -> Result<(), Closed> {
        let missing = self.missing_topics(batch.topics());
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
                None => some.for_each(|(_, event)| self.context.postponed(event.id)),
            }
            self.serve();
            self.report()?;
        }
        failpoints::after_produce(self.gapless.handle());
        Ok(())
    }

    /// Those of the topics for which no producer is given events, since they do not exist. The others are opened.
    fn missing_topics(&mut self, topics: &[Arc<str>]) -> HashSet<Arc<str>> {
        self.stale_check_at = Some(Instant::now() + STALE_CHECK_AFTER);
        let mut missing = HashSet::new();
        // Where Kafka may create topics, it is the producer's question that makes it do so.
        if !self.skip_topic_check && !config::creates_topics(&self.thread.config) {
            match self.gapless.find_missing(&mut self.known_topics, topics, PROBE_TIMEOUT) {
                Some(found) => missing = found,
                None => {
                    self.skip_topic_check = true;
                    // It is asked again when a broker is known to answer.
                    self.probe.get_or_insert_with(Probe::soon);
                }
            }
        }
        self.known_topics.mark_opened(topics.iter().filter(|topic| !missing.contains(*topic)));
        missing
    }

    /// Tells the main thread if the producers have nothing to do, and know what they had better forget: too much, or
    /// topics that Kafka would create again, should they be deleted, when librdkafka asks about them.
    fn check_stale_topics(&mut self) -> Result<(), Closed> {
        let vanished = std::mem::take(&mut self.context.callback_log().vanished_topics);
        vanished.iter().for_each(|topic| self.known_topics.record_vanished(topic));
        if self.stale_check_at.is_none_or(|at| at > Instant::now()) {
            return Ok(());
        }
        if !self.gapless.is_idle() || self.quarantine.as_ref().is_some_and(|quarantine| !quarantine.is_idle())
        {
            self.stale_check_at = Some(Instant::now() + STALE_CHECK_AFTER);
            return Ok(());
        }
        self.stale_check_at = None;
        let (opened, vanished) = (self.known_topics.opened(), self.known_topics.vanished());
        let creates = config::creates_topics(&self.thread.config) && opened > 0;
        if creates || opened > MAX_OPENED || vanished > MAX_VANISHED {
            return self.send(ProducerEvent::Stale);
        }
        Ok(())
    }

    /// The quarantine producer, made now if there is none.
    fn quarantine(&mut self) -> Option<&Client> {
        self.quarantine_until = Instant::now() + QUARANTINE_IDLE;
        if self.quarantine.is_none() {
            let config = config::for_quarantine(&self.thread.config);
            // This is the configuration of the gapless one, which librdkafka has taken: what may lack is a thread.
            self.quarantine = Client::open(&config, self.context.clone(), &self.thread.wakeup).ok();
        }
        self.quarantine.as_ref()
    }

    /// Purges what the gapless producer holds once it has stopped. Closes the quarantine producer when it has been idle
    /// for a while.
    fn clean_up(&mut self) {
        if self.is_stopping() {
            self.gapless.purge_queued();
        }
        if Instant::now() >= self.quarantine_until && self.quarantine.as_ref().is_some_and(Client::is_idle) {
            self.quarantine = None;
        }
    }

    fn recover_brokers(&mut self) {
        let none_answers = self.probe.as_ref().is_some_and(Probe::has_failed);
        self.gapless.recover_brokers(none_answers);
        self.quarantine.iter_mut().for_each(|quarantine| quarantine.recover_brokers(none_answers));
    }

    /// Whether the gapless producer has stopped, and has events that are to come back.
    fn is_stopping(&self) -> bool {
        self.stopped && !self.gapless.is_idle()
    }

    fn serve(&self) {
        self.gapless.serve();
        self.quarantine.iter().for_each(Client::serve);
    }

    /// Tells the main thread what was noted.
    fn report(&mut self) -> Result<(), Closed> {
        let (reports, has_error, stopped, has_log_lines, statistics) = {
            let mut log = self.context.callback_log();
            (
                std::mem::take(&mut log.reports),
                std::mem::take(&mut log.has_error),
                log.stopped.take(),
                std::mem::take(&mut log.has_log_lines),
                log.statistics.take(),
            )
        };
        // Before the reports, of which those of the refused batch are the reason.
        let fatal = if has_error || stopped.is_some() { self.fatal_error() } else { None };
        if fatal.is_some() || stopped.is_some() {
            self.report_stopped(fatal, stopped.unwrap_or_default())?;
        }
        let delivered = reports.iter().any(|report| matches!(report.outcome, Outcome::Delivered { .. }));
        if !reports.is_empty() {
            self.send(ProducerEvent::Reports(reports))?;
        }
        if delivered && self.probe.is_some() {
            self.connected()?;
        }
        if has_log_lines {
            self.thread.main_wakeup.set();
        }
        if let Some(statistics) = statistics {
            self.send(ProducerEvent::Statistics(statistics))?;
        }
        if has_error {
            self.probe.get_or_insert_with(Probe::soon);
        }
        Ok(())
    }

    /// Why a producer takes no more events, if one does not, and in words.
    fn fatal_error(&self) -> Option<(RDKafkaErrorCode, String)> {
        let (code, reason) =
            self.gapless.fatal_error().or_else(|| self.quarantine.as_ref()?.fatal_error())?;
        Some((code, self.context.redact(&reason)))
    }

    /// A producer takes no more events. One that stopped at a gap has only kept its promise.
    fn report_stopped(
        &mut self,
        fatal: Option<(RDKafkaErrorCode, String)>,
        reason: String,
    ) -> Result<(), Closed> {
        if std::mem::replace(&mut self.stopped, true) {
            return Ok(());
        }
        match fatal {
            Some((RDKafkaErrorCode::GaplessGuarantee, _)) => self.send(ProducerEvent::Gap),
            Some((_, reason)) => self.send(ProducerEvent::Broken(reason)),
            None => self.send(ProducerEvent::Broken(reason)),
        }
    }

    /// Sends and rings. Where there is no room, the main thread is behind: it is waited for.
    fn send(&self, event: ProducerEvent) -> Result<(), Closed> {
        let sent = match self.thread.events.try_send(event) {
            Err(TrySendError::Full(event)) => {
                self.thread.main_wakeup.set();
                self.thread.events.send(event).map_err(|_| Closed)
            }
            other => other.map_err(|_| Closed),
        };
        self.thread.main_wakeup.set();
        sent
    }

    /// Asks anew about topics for which an event was refused: partitions may have been added, of which the
    /// producer would else learn within minutes only. The refused event's next attempt then finds them.
    fn refresh_topics(&self) {
        let stale = std::mem::take(&mut self.context.callback_log().stale_topics);
        for topic in stale {
            self.gapless.refresh(&topic, PROBE_TIMEOUT);
            self.quarantine.iter().for_each(|quarantine| quarantine.refresh(&topic, PROBE_TIMEOUT));
        }
    }

    /// While it is not known that a broker answers: asks, when it is time.
    fn probe_broker(&mut self) -> Result<(), Closed> {
        if self.probe.as_ref().is_none_or(|probe| probe.at > Instant::now()) {
            return Ok(());
        }
        let topic = self.known_topics.any_opened().map(|topic| &**topic);
        if self.gapless.broker_answers(topic, PROBE_TIMEOUT) {
            return self.connected();
        }
        self.serve();
        if let Some(probe) = &mut self.probe {
            probe.later();
        }
        let cause = self.context.callback_log().last_error.clone();
        // Told at each try: the cause may have become another.
        self.send(ProducerEvent::Disconnected(cause.unwrap_or_else(|| "no answer in time".into())))
    }

    fn connected(&mut self) -> Result<(), Closed> {
        self.probe = None;
        self.skip_topic_check = false;
        self.context.callback_log().last_error = None;
        self.send(ProducerEvent::Connected)
    }

    /// Until the main thread rings, librdkafka does, or there is something to do without them.
    fn sleep(&self) {
        let probe = self.probe.as_ref().map(|probe| probe.at);
        let clean_up = self.quarantine.as_ref().map(|_| self.quarantine_until);
        let look = self.is_stopping().then(|| Instant::now() + STOPPED_CHECK);
        let remind =
            std::iter::once(&self.gapless).chain(&self.quarantine).filter_map(Client::next_recovery).min();
        let timeout = [probe, clean_up, look, remind, self.stale_check_at]
            .into_iter()
            .flatten()
            .min()
            .map_or(-1, |until| {
                let left = until.saturating_duration_since(Instant::now()).as_micros().div_ceil(1000);
                i32::try_from(left).unwrap_or(i32::MAX)
            });
        let mut wait = libc::pollfd { fd: self.thread.wakeup.fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one descriptor, which lives as long as the thread.
        unsafe { libc::poll(&mut wait, 1, timeout) };
    }
}
