//! The Kafka thread: takes batches, produces their events, and reports the outcomes.
//!
//! It sleeps until the main thread wakes it or librdkafka has callbacks to serve. It does not poll, except while no broker
//! answers: then it probes for one from time to time.
//!
//! Runs in: the Kafka thread of the relay's process.

mod produce;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError};
use event_outbox_policy::delivery::outcome::Outcome;
use event_outbox_policy::event::envelope::Envelope;
use event_outbox_policy::kafka::known_topics::KnownTopics;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::callbacks::Context;
use super::client::Client;
use super::held_batches::HeldBatches;
use super::messages::{ProduceBatch, ProducerCommand, ProducerEvent};
use crate::kafka::config;
use crate::kafka::probe::{Finding, Probe};
use crate::kafka::question::Question;
use crate::kafka::wakeup_fd::{SetAtEnd, WakeupFd};

/// How often to purge a producer that has stopped, until all its events are reported.
const STOPPED_CHECK: Duration = Duration::from_millis(5);

/// How long an idle quarantine producer is kept.
const QUARANTINE_IDLE: Duration = Duration::from_secs(30);

/// How long the producers must be idle before they are checked for stale topics.
const STALE_CHECK_AFTER: Duration = Duration::from_secs(30);

/// The thread's arguments: its ends of both channels, its own wakeup, and that of the main thread.
pub struct KafkaThread {
    pub(super) config: ClientConfig,
    pub(super) envelope: Envelope,
    pub(super) commands: Receiver<ProducerCommand>,
    pub(super) events: Sender<ProducerEvent>,
    pub(super) wakeup: Arc<WakeupFd>,
    pub(super) main_wakeup: Arc<WakeupFd>,
}

impl KafkaThread {
    /// Creates the producer, and works until the main thread closes its channels.
    pub fn run(self) {
        let _wake = SetAtEnd(self.main_wakeup.clone());
        match Session::open(&self) {
            Ok(mut session) => while session.run_once().is_ok() {},
            Err(error) => {
                // If the main thread is gone, no one needs this message.
                let _ = self.events.send(ProducerEvent::Broken(config::describe_error(&self.config, &error)));
                self.main_wakeup.set();
            }
        }
    }
}

/// The main thread has closed its channels.
struct Closed;

/// The state of the running thread.
struct Session<'a> {
    thread: &'a KafkaThread,
    // Questions are declared before the producers, so that they are dropped before these.
    /// Asks whether a broker answers; `None` while one is known to.
    probe: Option<Probe>,
    /// The open question about topics.
    topic_question: Option<Question>,
    context: Context,
    /// Stops at the first gap in a sequence, so that no event overtakes those that were refused.
    gapless: Client,
    /// Sends the events that are likely to be refused, and continues after a refusal. Created when there are such events.
    quarantine: Option<Client>,
    /// When to close it, if it is idle then.
    quarantine_until: Instant,
    /// Sends each event once and repeats nothing. Created when there are such events.
    once: Option<Client>,
    /// Batches that were taken, and of which no event is produced yet.
    batches: VecDeque<ProduceBatch>,
    /// Events whose topics Kafka is asked about.
    held: HeldBatches,
    /// A producer has stopped, and the main thread was told.
    stopped: bool,
    /// The topics that the producers know.
    known_topics: KnownTopics,
    /// When to check for stale topics. Each batch postpones it.
    stale_check_at: Option<Instant>,
}

impl<'a> Session<'a> {
    fn open(thread: &'a KafkaThread) -> Result<Self, KafkaError> {
        let context = Context::new(config::redactor(&thread.config));
        let gapless = Client::open(&thread.config, context.clone(), &thread.wakeup)?;
        Ok(Self {
            thread,
            probe: Some(Probe::first()),
            topic_question: None,
            context,
            gapless,
            quarantine: None,
            quarantine_until: Instant::now(),
            once: None,
            batches: VecDeque::new(),
            held: HeldBatches::default(),
            stopped: false,
            known_topics: KnownTopics::default(),
            stale_check_at: None,
        })
    }

    /// Sleeps until there is work, does it, and reports to the main thread.
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
        self.probe_broker()?;
        self.produce_batches()?;
        self.ask_about_topics()
    }

    fn take_batches(&mut self) -> Result<(), Closed> {
        loop {
            match self.thread.commands.try_recv() {
                Ok(ProducerCommand::Publish(batch)) => self.batches.push_back(batch),
                // These are for transactions.
                Ok(ProducerCommand::Deleted(_) | ProducerCommand::Resume) => {}
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => return Err(Closed),
            }
        }
    }

    /// Tells the main thread if the producers are idle and hold topics that they should not keep: too many, or topics that
    /// Kafka would create again after they are deleted, because librdkafka keeps requesting their metadata.
    fn check_stale_topics(&mut self) -> Result<(), Closed> {
        let vanished = std::mem::take(&mut self.context.callback_log().vanished_topics);
        vanished.iter().for_each(|topic| self.known_topics.record_vanished(topic));
        if self.stale_check_at.is_none_or(|at| at > Instant::now()) {
            return Ok(());
        }
        if !self.held.is_empty() || self.producers().any(|producer| !producer.is_idle()) {
            self.stale_check_at = Some(Instant::now() + STALE_CHECK_AFTER);
            return Ok(());
        }
        self.stale_check_at = None;
        if self.known_topics.are_stale(config::creates_topics(&self.thread.config)) {
            return self.send(ProducerEvent::Stale);
        }
        Ok(())
    }

    /// The quarantine producer. Creates it if there is none.
    fn quarantine(&mut self) -> Option<&Client> {
        self.quarantine_until = Instant::now() + QUARANTINE_IDLE;
        if self.quarantine.is_none() {
            let config = config::for_quarantine(&self.thread.config);
            // librdkafka has accepted this configuration for the gapless producer, so only a lack of threads can make
            // this fail.
            self.quarantine = Client::open(&config, self.context.clone(), &self.thread.wakeup).ok();
        }
        self.quarantine.as_ref()
    }

    /// The producer that sends each event once. Creates it if there is none.
    fn once(&mut self) -> Option<&Client> {
        if self.once.is_none() {
            let config = config::for_once(&self.thread.config);
            self.once = Client::open(&config, self.context.clone(), &self.thread.wakeup).ok();
        }
        self.once.as_ref()
    }

    fn producers(&self) -> impl Iterator<Item = &Client> {
        std::iter::once(&self.gapless).chain(&self.quarantine).chain(&self.once)
    }

    /// Purges the gapless producer's queue once it has stopped. Closes the quarantine producer when it has been idle for a
    /// while.
    fn clean_up(&mut self) {
        if self.is_stopping() {
            self.gapless.purge_queued();
        }
        if Instant::now() >= self.quarantine_until && self.quarantine.as_ref().is_some_and(Client::is_idle) {
            self.quarantine = None;
        }
    }

    fn recover_brokers(&mut self) {
        let none_answers = self.probe.as_ref().is_some_and(Probe::is_overdue);
        let producers = std::iter::once(&mut self.gapless).chain(&mut self.quarantine).chain(&mut self.once);
        producers.for_each(|producer| producer.recover_brokers(none_answers));
    }

    /// Whether the gapless producer has stopped, and some of its events are not reported yet.
    fn is_stopping(&self) -> bool {
        self.stopped && !self.gapless.is_idle()
    }

    fn serve(&self) {
        self.producers().for_each(Client::serve);
    }

    /// Sends the callbacks' notes to the main thread.
    fn report(&mut self) -> Result<(), Closed> {
        let (reports, has_error, stopped, has_log_lines, statistics) = {
            let mut log = self.context.callback_log();
            (
                std::mem::take(&mut log.reports),
                std::mem::take(&mut log.client.has_error),
                log.stopped.take(),
                std::mem::take(&mut log.client.has_log_lines),
                log.client.statistics.take(),
            )
        };
        // The stop goes first: the main thread must know of it when it reads the reports of the refused batch, its cause.
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
            self.probe.get_or_insert_default().note_error();
        }
        Ok(())
    }

    /// Why a producer accepts no more events, if one has stopped: the code and the text.
    fn fatal_error(&self) -> Option<(RDKafkaErrorCode, String)> {
        let (code, reason) =
            self.gapless.fatal_error().or_else(|| self.quarantine.as_ref()?.fatal_error())?;
        Some((code, self.context.redact(&reason)))
    }

    /// Reports that a producer has stopped. Stopping at a gap is not an error: it keeps the order.
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

    /// Sends a message and wakes the main thread. If the channel is full, the main thread is behind: then this waits.
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

    /// Has the producers look again at topics for which an event was refused: partitions may have been added, and a producer
    /// would learn of them only after minutes. The refused event's next attempt then finds them.
    fn refresh_topics(&mut self) {
        let mut producers: Vec<&mut Client> =
            std::iter::once(&mut self.gapless).chain(&mut self.quarantine).chain(&mut self.once).collect();
        // Topics that come up meanwhile go into the next question.
        if producers.iter_mut().any(|producer| producer.is_refreshing()) {
            return;
        }
        let stale: Vec<String> =
            std::mem::take(&mut self.context.callback_log().stale_topics).into_iter().collect();
        if !stale.is_empty() {
            producers.iter_mut().for_each(|producer| producer.refresh(&stale, &self.thread.wakeup));
        }
    }

    /// Looks whether a broker answers, if that is not known. Each report of an outage has its cause, which may have changed.
    fn probe_broker(&mut self) -> Result<(), Closed> {
        let Some(probe) = &mut self.probe else { return Ok(()) };
        match probe.look(|patience| self.gapless.ask_about_brokers(patience, &self.thread.wakeup)) {
            None => Ok(()),
            Some(Finding::Answer) => self.connected(),
            Some(Finding::Silence) => {
                let cause = self.context.callback_log().client.last_error.clone();
                let cause = cause.unwrap_or_else(|| "no broker answered in time".into());
                self.send(ProducerEvent::Disconnected(cause))
            }
        }
    }

    fn connected(&mut self) -> Result<(), Closed> {
        self.probe = None;
        self.context.callback_log().client.last_error = None;
        self.send(ProducerEvent::Connected)
    }

    /// Sleeps until the main thread or librdkafka sets the wakeup, or scheduled work is due.
    fn sleep(&self) {
        let probe = self.probe.as_ref().map(Probe::due);
        let clean_up = self.quarantine.as_ref().map(|_| self.quarantine_until);
        let purge = self.is_stopping().then(|| Instant::now() + STOPPED_CHECK);
        let recovery = self.producers().filter_map(Client::next_recovery).min();
        let next = [probe, clean_up, purge, recovery, self.stale_check_at].into_iter().flatten().min();
        self.thread.wakeup.wait(next.map(|until| until.saturating_duration_since(Instant::now())));
    }
}
