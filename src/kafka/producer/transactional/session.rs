//! The state of a thread that has its producer: its steps between transactions.
//!
//! Runs in: the Kafka thread of the relay's process.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::TryRecvError;
use event_outbox_policy::delivery::apart::Apart;
use event_outbox_policy::delivery::marker::{Found, PREFIX};
use event_outbox_policy::delivery::topic_ramp::Route;
use event_outbox_policy::delivery::transaction::{MOST_IN_FLIGHT, Transactions};
use event_outbox_policy::kafka::known_partitions::KnownPartitions;
use event_outbox_policy::kafka::known_topics::KnownTopics;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, Producer};

use super::transactor::{TRANSACTORS, Transactors};
use super::{End, TransactionalThread};
use crate::kafka::config;
use crate::kafka::probe::{Finding, Probe};
use crate::kafka::producer::callbacks::Context;
use crate::kafka::producer::client::Client;
use crate::kafka::producer::messages::{ProduceBatch, ProducerCommand, ProducerEvent};

/// How long one of librdkafka's calls may block before the thread looks whether it is still wanted, at first and at last.
pub(super) type Slices = (Duration, Duration);

/// For calls that need nothing of the thread. A call has several steps; if it is repeated just when one is answered, librdkafka
/// can take the answer to one step for that to the next (`rd_kafka_txn_op_req0()`, 2.12.1), and leave the last one out: then the
/// producer cannot begin another transaction, and must be replaced. So a call is repeated seldom.
pub(super) const SELDOM: Slices = (Duration::from_secs(1), Duration::from_secs(1));

/// For calls that abort a transaction: they wait until the thread has served the reports of what they have purged.
pub(super) const OFTEN: Slices = (Duration::from_millis(5), Duration::from_millis(200));

/// How long the coordinator of transactions may take for a new producer.
const INITIALISED_WITHIN: Duration = Duration::from_secs(60);

/// How long nothing is heard of Kafka before it is asked whether it answers.
pub(super) const QUIET: Duration = Duration::from_secs(1);

/// A wait for the coordinator that is longer is told.
const TOLD_AFTER: Duration = Duration::from_secs(5);

/// How long the producer must be idle before it is checked for stale topics.
const STALE_CHECK_AFTER: Duration = Duration::from_secs(30);

/// The routes that take transactions. Quarantined topics take others than the rest.
const TRANSACTED: [Route; 2] = [Route::Gapless, Route::Quarantine];

/// A transaction with this many events takes no further batch. Meanwhile as many can be settled, and as many read.
const ENOUGH: usize = MOST_IN_FLIGHT / 5;

/// The state of the thread.
pub struct Session<'t> {
    pub(super) thread: &'t TransactionalThread,
    // The probe's question is declared before the producers, so that it is dropped before these.
    /// Asks whether a broker answers; `None` while one is known to.
    probe: Option<Probe>,
    /// The producers of transactions.
    pub(super) transactors: Transactors,
    once_context: Context,
    /// Sends the events of topics that are delivered at most once. Created when there are such events.
    once: Option<Client>,
    pub(super) rules: Transactions,
    /// Batches that were taken, and of which no event is produced yet.
    batches: VecDeque<ProduceBatch>,
    pub(super) known_topics: KnownTopics,
    pub(super) known_partitions: KnownPartitions,
    /// Which quarantined topics go alone.
    pub(super) apart: Apart,
    /// A transaction was rolled back: batches that were read before come back.
    pub(super) is_rolled_back: bool,
    /// When to check for stale topics. Each batch postpones it.
    stale_check_at: Option<Instant>,
}

impl<'t> Session<'t> {
    /// Initialises the producers. This fences the former relay, and ends the transactions that it may have left open.
    pub fn open(thread: &'t TransactionalThread, rules: Transactions) -> Result<Self, End> {
        let transactors = Transactors::open(thread, rules.owner())?;
        let mut session = Self {
            thread,
            probe: None,
            transactors,
            once_context: Context::new(config::redactor(&thread.config)),
            once: None,
            rules,
            batches: VecDeque::new(),
            known_topics: KnownTopics::default(),
            known_partitions: KnownPartitions::default(),
            apart: Apart::default(),
            is_rolled_back: false,
            stale_check_at: None,
        };
        for _ in 0..TRANSACTORS {
            session.patiently(
                INITIALISED_WITHIN,
                SELDOM,
                "the coordinator of transactions",
                |producer, slice| producer.init_transactions(slice),
            )?;
            session.end_hanging()?;
            session.transactors.take_turns();
        }
        Ok(session)
    }

    /// The producer whose turn it is.
    pub(super) fn client(&self) -> &Client {
        &self.transactors.current().client
    }

    /// What its callbacks note.
    pub(super) fn context(&self) -> &Context {
        &self.transactors.current().context
    }

    /// The rules of its transactions.
    #[must_use]
    pub fn rules(&self) -> &Transactions {
        &self.rules
    }

    /// All that was published before is known: batches can be taken.
    pub fn begin(&mut self, found: &Found) -> Result<(), End> {
        let start = self.rules.start(found);
        self.thread.send(ProducerEvent::Connected)?;
        self.thread.send(ProducerEvent::Started(start.published))
    }

    /// Sleeps until there is work, and does it.
    pub fn run_once(&mut self) -> Result<(), End> {
        self.sleep();
        self.thread.wakeup.clear();
        self.serve()?;
        while !self.batches.is_empty() {
            self.stale_check_at = Some(Instant::now() + STALE_CHECK_AFTER);
            let batches = self.take_together();
            for batch in &batches {
                self.produce_once(batch)?;
            }
            for route in TRANSACTED {
                let parts: Vec<_> = batches.iter().map(|batch| batch.part(route)).collect();
                self.publish(&parts, route)?;
            }
        }
        self.check_stale_topics()?;
        self.probe_broker()
    }

    /// The next batches for one transaction. The longer the last one took, the more have come meanwhile.
    fn take_together(&mut self) -> Vec<ProduceBatch> {
        let (mut batches, mut events) = (Vec::new(), 0);
        while events < ENOUGH
            && let Some(batch) = self.batches.pop_front()
        {
            events += TRANSACTED.map(|route| batch.part(route).extent().events).iter().sum::<usize>();
            batches.push(batch);
        }
        batches
    }

    fn sleep(&self) {
        if !self.batches.is_empty() {
            return;
        }
        let next = self.probe.as_ref().map(Probe::due).into_iter().chain(self.stale_check_at).min();
        self.thread.wakeup.wait(next.map(|until| until.saturating_duration_since(Instant::now())));
    }

    /// Runs the callbacks, tells the main thread what they noted besides the reports of the transaction, and takes commands.
    pub(super) fn serve(&mut self) -> Result<(), End> {
        self.transactors.iter().for_each(|transactor| transactor.client.serve());
        self.once.iter().for_each(Client::serve);
        let mut has_log_lines = false;
        let contexts = self.transactors.iter().map(|transactor| &transactor.context);
        for context in contexts.chain([&self.once_context]) {
            let (has_error, statistics) = {
                let mut log = context.callback_log();
                has_log_lines |= std::mem::take(&mut log.client.has_log_lines);
                log.stale_topics.clear();
                // A purge of what was not sent. Whether the producer has ended, it says itself.
                log.stopped = None;
                (std::mem::take(&mut log.client.has_error), log.client.statistics.take())
            };
            if has_error {
                self.probe.get_or_insert_default().note_error();
            }
            if let Some(statistics) = statistics {
                self.thread.send(ProducerEvent::Statistics(statistics))?;
            }
        }
        if has_log_lines {
            self.thread.main_wakeup.set();
        }
        let reports = std::mem::take(&mut self.once_context.callback_log().reports);
        if !reports.is_empty() {
            self.thread.send(ProducerEvent::Reports(reports))?;
        }
        if let Some((_, reason)) =
            self.transactors.iter().find_map(|transactor| transactor.client.fatal_error())
        {
            let reason = self.context().redact(&reason);
            return Err(End::Broken(format!("the producer of transactions has ended: {reason}")));
        }
        self.take_commands()
    }

    fn take_commands(&mut self) -> Result<(), End> {
        loop {
            match self.thread.commands.try_recv() {
                Ok(ProducerCommand::Publish(batch)) => self.batches.push_back(batch),
                Ok(ProducerCommand::Deleted(events)) => self.rules.deleted(events),
                Ok(ProducerCommand::Resume) => self.is_rolled_back = false,
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => return Err(End::Closed),
            }
        }
    }

    /// Sends the events that are delivered at most once. Their rows are gone, so they go whatever becomes of transactions.
    fn produce_once(&mut self, batch: &ProduceBatch) -> Result<(), End> {
        let events = batch.part(Route::Once);
        if events.topics().is_empty() {
            return Ok(());
        }
        if self.once.is_none() {
            let config = config::for_once(&self.thread.config);
            self.once = Client::open(&config, self.once_context.clone(), &self.thread.wakeup).ok();
        }
        match &self.once {
            Some(once) => once.produce(events.events(), events.topics(), &self.thread.envelope),
            None => events.events().for_each(|(_, event)| self.once_context.postponed(event.id)),
        }
        self.serve()
    }

    /// Repeats a call of librdkafka that blocks, for this long at most.
    pub(super) fn patiently(
        &mut self,
        patience: Duration,
        (mut slice, longest): Slices,
        what: &str,
        call: impl Fn(&BaseProducer<Context>, Duration) -> KafkaResult<()>,
    ) -> Result<(), End> {
        let begin = Instant::now();
        let mut is_told = false;
        loop {
            match call(self.client().producer(), slice) {
                Ok(()) => return Ok(()),
                Err(error) if !is_worth_repeating(&error) || begin.elapsed() >= patience => {
                    if let Some(reason) = self.unfit(&error) {
                        return Err(End::Unfit(reason));
                    }
                    let error = self.context().redact(&error.to_string());
                    return Err(End::Broken(self.cause(&format!("{what}: {error}"))));
                }
                Err(_) => {}
            }
            slice = longest.min(2 * slice);
            self.serve()?;
            if begin.elapsed() >= QUIET {
                self.doubt()?;
            }
            if !is_told && begin.elapsed() >= TOLD_AFTER {
                is_told = true;
                let seconds = TOLD_AFTER.as_secs();
                let reason = self.cause(&format!("waiting for Kafka, {what}, for more than {seconds} s"));
                self.thread.send(ProducerEvent::HoldsBack(reason))?;
            }
        }
    }

    /// What to do if Kafka does not accept transactions of this relay, whichever producer asks.
    fn unfit(&self, error: &KafkaError) -> Option<String> {
        let id = &self.transactors.current().id;
        let reason = match error.rdkafka_error_code()? {
            RDKafkaErrorCode::TransactionalIdAuthorizationFailed => format!(
                "Kafka does not let its user use the transactional id \"{id}\". Allow that: kafka-acls --add \
                 --allow-principal User:NAME --operation Write --operation Describe --transactional-id {PREFIX} \
                 --resource-pattern-type prefixed"
            ),
            RDKafkaErrorCode::InvalidTransactionTimeout => format!(
                "transaction.timeout.ms is {}, which is more than transaction.max.timeout.ms of the brokers. \
                 Lower transaction.timeout.ms in event_outbox.kafka_properties",
                config::transaction_timeout(&self.thread.config).as_millis()
            ),
            _ => return None,
        };
        Some(reason)
    }

    /// This text, and the last error of the connection.
    pub(super) fn cause(&self, text: &str) -> String {
        let cause = self.context().callback_log().client.last_error.clone();
        cause.map_or_else(|| text.to_owned(), |cause| format!("{text} ({cause})"))
    }

    /// The number of the last claim or transaction, for the next producer.
    pub(super) fn keep_serial(&self) {
        self.thread.claimant.serial.store(self.rules.serial(), Ordering::Relaxed);
    }

    /// Tells the main thread if the producer is idle and holds topics that it should not keep: see `KnownTopics::are_stale`.
    fn check_stale_topics(&mut self) -> Result<(), End> {
        for transactor in self.transactors.iter() {
            let vanished = std::mem::take(&mut transactor.context.callback_log().vanished_topics);
            vanished.iter().for_each(|topic| self.known_topics.record_vanished(topic));
        }
        if self.stale_check_at.is_none_or(|at| at > Instant::now()) {
            return Ok(());
        }
        self.stale_check_at = None;
        if self.known_topics.are_stale(config::creates_topics(&self.thread.config)) {
            return self.thread.send(ProducerEvent::Stale);
        }
        Ok(())
    }

    /// Nothing was heard of Kafka for a while: looks whether a broker answers. Returns when to look again.
    pub(super) fn doubt(&mut self) -> Result<Option<Instant>, End> {
        self.probe.get_or_insert_default();
        self.probe_broker()?;
        Ok(self.probe.as_ref().map(Probe::due))
    }

    /// Looks whether a broker answers, if that is not known.
    fn probe_broker(&mut self) -> Result<(), End> {
        let Some(probe) = &mut self.probe else { return Ok(()) };
        match probe.look(|patience| {
            self.transactors.current().client.ask_about_brokers(patience, &self.thread.wakeup)
        }) {
            None => Ok(()),
            Some(Finding::Answer) => self.connected(),
            Some(Finding::Silence) => {
                let cause = self.cause("no broker answered in time");
                self.thread.send(ProducerEvent::Disconnected(cause))
            }
        }
    }

    pub(super) fn connected(&mut self) -> Result<(), End> {
        if self.probe.take().is_some() {
            for transactor in self.transactors.iter() {
                transactor.context.callback_log().client.last_error = None;
            }
            return self.thread.send(ProducerEvent::Connected);
        }
        Ok(())
    }
}

/// Whether a call of librdkafka can be repeated to go on with it.
fn is_worth_repeating(error: &KafkaError) -> bool {
    match error {
        KafkaError::Transaction(error) => {
            error.is_retriable() && !error.is_fatal() && !error.txn_requires_abort()
        }
        _ => false,
    }
}
