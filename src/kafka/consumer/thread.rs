//! The Kafka thread of a consumer: reads what is assigned, hands it over, and looks after the topics.
//!
//! It sleeps until the main thread or librdkafka wakes it. It does not poll, except while no broker answers: then it reports
//! that from time to time. While the main thread has not taken the last message, it reads no more records, so librdkafka's
//! queue fills up and it stops fetching.
//!
//! Runs in: the Kafka thread.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError};
use event_outbox_policy::backoff::Doubling;
use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaError;

use super::callbacks::Context;
use super::client::Client;
use super::comparison::Comparison;
use super::lost::Lost;
use super::message::Problem;
use super::messages::{Assigned, Assignment, ConsumerEvent, Fetched, Topics};
use crate::kafka::config;
use crate::kafka::probe::{Finding, PATIENCE, Probe};
use crate::kafka::question::Question;
use crate::kafka::topics;
use crate::kafka::wakeup_fd::{SetAtEnd, WakeupFd};

/// How long to wait for the list of all topics, at first and at most: longer each time that it did not come. Meanwhile nothing
/// is read.
const TIMEOUT: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(16));

/// How often the topics are looked up: new partitions are found, and topics that were created again.
const LOOK_AT_TOPICS: Duration = Duration::from_secs(60);

/// How often they are looked up after an error, and for how long: Kafka takes a broker for gone, and its partitions for without
/// a leader, when it has not heard of it for some seconds.
const LOOK_AFTER_ERROR: Duration = Duration::from_secs(5);
const ERROR_LASTS: Duration = Duration::from_secs(30);

/// When to look again if Kafka did not answer.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// When to look again while a topic is missing, at first and at most.
const LOOK_FOR_MISSING: (Duration, Duration) = (LOOK_AGAIN, Duration::from_secs(15));

/// The thread's arguments: its ends of both channels, its own wakeup, and that of the main thread.
pub struct KafkaThread {
    pub(super) config: ClientConfig,
    pub(super) batch_bytes: usize,
    pub(super) assignments: Receiver<Assignment>,
    pub(super) events: Sender<ConsumerEvent>,
    pub(super) wakeup: Arc<WakeupFd>,
    pub(super) main_wakeup: Arc<WakeupFd>,
}

impl KafkaThread {
    /// Creates the consumer, and works until the main thread closes its channels.
    pub fn run(self) {
        let _wake = SetAtEnd(self.main_wakeup.clone());
        match Session::open(&self) {
            Ok(mut session) => while session.run_once().is_ok() {},
            Err(error) => {
                // If the main thread is gone, no one needs this message.
                let _ = self.events.send(ConsumerEvent::Broken(config::describe_error(&self.config, &error)));
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
    context: Context,
    // Questions are declared before the client, so that they are dropped before it.
    /// Asks whether a broker answers; `None` while one is known to.
    probe: Option<Probe>,
    /// The open question about topics.
    topic_question: Option<Question>,
    /// Partitions whose next record Kafka does not have.
    lost: Lost,
    comparison: Comparison,
    client: Client,
    assignment: Assignment,
    /// Messages that the main thread has had no room for yet, in their order.
    waiting: VecDeque<ConsumerEvent>,
    /// When to look at the topics.
    look_at: Option<Instant>,
    /// Until when an error may show in the topics.
    unsettled_until: Option<Instant>,
    /// When to look again for topics that are missing.
    missing: Doubling,
    /// How long the next request may take that is waited for.
    timeout: Doubling,
    /// librdkafka's queue may hold records that were not taken.
    has_more: bool,
    /// The topics were looked up since the assignment. Records of a topic that was created again are not handed over before
    /// the main thread knows its new id.
    knows_topics: bool,
    /// The ids of the topics, as the main thread knows them.
    known_ids: BTreeMap<String, String>,
    /// The assigned partitions without those that had no leader at the last look: asked about one of these, librdkafka tells
    /// of no others either.
    led: Vec<Assigned>,
    /// Topics were created again since: nothing is read until the next assignment.
    is_over: bool,
}

impl<'a> Session<'a> {
    fn open(thread: &'a KafkaThread) -> Result<Self, KafkaError> {
        let context = Context::new(config::redactor(&thread.config));
        let client = Client::open(&thread.config, context.clone(), &thread.wakeup)?;
        Ok(Self {
            thread,
            context,
            probe: Some(Probe::first()),
            topic_question: None,
            lost: Lost::default(),
            comparison: Comparison::default(),
            client,
            assignment: Assignment::default(),
            waiting: VecDeque::new(),
            look_at: None,
            unsettled_until: None,
            missing: Doubling::new(LOOK_FOR_MISSING.0, LOOK_FOR_MISSING.1),
            timeout: Doubling::new(TIMEOUT.0, TIMEOUT.1),
            has_more: false,
            knows_topics: false,
            known_ids: BTreeMap::new(),
            led: Vec::new(),
            is_over: false,
        })
    }

    /// Sleeps until there is work, does it, and reports to the main thread.
    fn run_once(&mut self) -> Result<(), Closed> {
        self.sleep();
        self.thread.wakeup.clear();
        self.client.serve();
        self.take_assignments()?;
        self.note_log();
        self.hand_over()?;
        if self.waiting.is_empty() {
            self.look();
            self.answer_about_topics();
            let of = (self.assignment.generation, &self.led[..]);
            let found = self.lost.look(of, &self.client, &self.thread.wakeup);
            self.waiting.extend(found.into_iter().map(ConsumerEvent::OutOfRange));
            if self.knows_topics && !self.is_over {
                self.read();
            }
            self.probe_broker();
            self.compare();
            self.hand_over()?;
        }
        Ok(())
    }

    fn take_assignments(&mut self) -> Result<(), Closed> {
        loop {
            match self.thread.assignments.try_recv() {
                Ok(assignment) => self.assign(assignment),
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => return Err(Closed),
            }
        }
    }

    fn assign(&mut self, assignment: Assignment) {
        // What was read for the last one is not needed any more.
        self.waiting.retain(|event| !matches!(event, ConsumerEvent::Fetched(_) | ConsumerEvent::Topics(_)));
        self.lost = Lost::default();
        let problems = self.client.assign(&assignment.partitions, &self.thread.wakeup);
        self.assignment = assignment;
        self.report(problems);
        self.look_at = Some(Instant::now());
        self.has_more = true;
        self.knows_topics = false;
        // What is open concerns the last assignment.
        self.topic_question = None;
        let assigned = &self.assignment.partitions;
        let ids = assigned.iter().filter_map(|of| Some((of.topic.clone(), of.topic_id.clone()?)));
        (self.known_ids, self.is_over) = (ids.collect(), false);
        self.comparison = Comparison::of(assigned);
        self.led.clone_from(assigned);
    }

    /// Takes one batch of records.
    fn read(&mut self) {
        let mut fetched = Fetched::of(self.assignment.generation);
        let (problems, is_all) = self.client.read(&mut fetched, self.thread.batch_bytes);
        // What librdkafka said before these records is heard before they count.
        self.client.serve();
        if self.known_ids.iter().any(|(topic, id)| self.context.is_outdated(topic, id)) {
            (self.is_over, self.has_more) = (true, false);
            self.waiting.push_back(ConsumerEvent::OtherTopics(self.assignment.generation));
            return;
        }
        self.has_more = !is_all;
        self.comparison.note(&fetched);
        if !fetched.records.is_empty() {
            self.note_answer();
        }
        if !(fetched.records.is_empty() && fetched.ends.is_empty()) {
            self.waiting.push_back(ConsumerEvent::Fetched(fetched));
        }
        self.report(problems);
    }

    fn report(&mut self, problems: Vec<Problem>) {
        for problem in problems {
            match problem {
                Problem::Lost(place) => self.lost.add(place),
                Problem::Other(number, text) => {
                    self.waiting.push_back(ConsumerEvent::Trouble(number, text));
                    // The topic may be gone.
                    self.look_soon();
                }
            }
        }
    }

    fn look_soon(&mut self) {
        self.look_within(LOOK_AGAIN);
    }

    fn look_within(&mut self, time: Duration) {
        let soon = Instant::now() + time;
        self.look_at = Some(self.look_at.map_or(soon, |at| at.min(soon)));
    }

    /// Looks at the topics, if that is due.
    fn look(&mut self) {
        if self.look_at.is_none_or(|at| at > Instant::now()) {
            return;
        }
        let is_done = self.ask_about_topics();
        if is_done {
            self.timeout.reset();
        } else {
            self.timeout.take();
        }
        let now = Instant::now();
        let is_unsettled = self.unsettled_until.is_some_and(|until| until > now);
        let next = match (is_done, is_unsettled) {
            (false, _) => LOOK_AGAIN,
            (true, true) => LOOK_AFTER_ERROR,
            (true, false) => LOOK_AT_TOPICS,
        };
        self.look_at = Some(now + next);
    }

    /// Asks about the topics, unless a question is open. Returns whether those of a pattern are known.
    fn ask_about_topics(&mut self) -> bool {
        if self.topic_question.is_some() {
            return true;
        }
        let assigned = self.assignment.partitions.iter().map(|assigned| &assigned.topic);
        let mut names: BTreeSet<String> = assigned.chain(&self.assignment.topics).cloned().collect();
        if let Some(pattern) = &self.assignment.pattern {
            let Ok(matching) = topics::matching(self.client.inner(), pattern, self.timeout.peek()) else {
                return false;
            };
            names.extend(matching);
        }
        let names: Vec<String> = names.into_iter().collect();
        if names.is_empty() {
            self.knows_topics = true;
        } else {
            self.topic_question = Some(self.client.ask_about_topics(&names, PATIENCE, &self.thread.wakeup));
        }
        true
    }

    /// Takes the answer about topics, if there is any.
    fn answer_about_topics(&mut self) {
        let Some(answer) =
            self.topic_question.as_ref().and_then(|question| question.answer_within(Duration::ZERO))
        else {
            return;
        };
        self.topic_question = None;
        let Some((found, missing)) = topics::read(&answer) else { return self.look_soon() };
        self.note_answer();
        let generation = self.assignment.generation;
        // A topic that is missing keeps its id: it may be created again.
        self.known_ids.extend(found.iter().filter_map(|of| Some((of.topic.clone(), of.id.clone()?))));
        let has_no_leader = |of: &&Assigned| {
            found.iter().any(|topic| topic.topic == of.topic && topic.leaderless.contains(&of.partition))
        };
        let assigned = &self.assignment.partitions;
        self.led = assigned.iter().filter(|of| !has_no_leader(of)).cloned().collect();
        if missing.is_empty() && self.led.len() == assigned.len() {
            self.missing.reset();
        } else {
            let pause = self.missing.take();
            self.look_within(pause);
        }
        let missing = missing.into_iter().map(|(topic, code)| (topic, code.to_string())).collect();
        self.waiting.push_back(ConsumerEvent::Topics(Topics { generation, found, missing }));
        self.knows_topics = true;
        let problems = self.client.verify();
        self.report(problems);
    }

    /// Compares with the ends of the partitions, if all that has arrived was taken.
    fn compare(&mut self) {
        if self.has_more || self.is_over {
            return;
        }
        let standing = self.comparison.look(&self.led, &self.client, &self.thread.wakeup);
        self.waiting.extend(standing.map(ConsumerEvent::StandsStill));
    }

    /// Passes on what the callbacks have noted.
    fn note_log(&mut self) {
        let (has_error, has_log_lines, statistics) = {
            let mut log = self.context.client_log();
            (
                std::mem::take(&mut log.has_error),
                std::mem::take(&mut log.has_log_lines),
                log.statistics.take(),
            )
        };
        if has_log_lines {
            self.thread.main_wakeup.set();
        }
        if let Some(statistics) = statistics {
            self.waiting.push_back(ConsumerEvent::Statistics(statistics));
        }
        if has_error {
            self.probe.get_or_insert_default().note_error();
            // With a broker, partitions may have lost their leader.
            self.unsettled_until = Some(Instant::now() + ERROR_LASTS);
            self.look_soon();
        }
    }

    /// A broker has answered, whatever the question was.
    fn note_answer(&mut self) {
        if self.probe.take().is_some() {
            self.context.client_log().last_error = None;
            self.waiting.push_back(ConsumerEvent::Connected);
        }
    }

    /// Looks whether a broker answers, if that is not known. Each report of an outage has its cause, which may have changed.
    fn probe_broker(&mut self) {
        let Some(probe) = &mut self.probe else { return };
        match probe.look(|patience| self.client.ask_about_brokers(patience, &self.thread.wakeup)) {
            None => {}
            Some(Finding::Answer) => self.note_answer(),
            Some(Finding::Silence) => {
                let cause = self.context.client_log().last_error.clone();
                let cause = cause.unwrap_or_else(|| "no broker answered in time".into());
                self.waiting.push_back(ConsumerEvent::Disconnected(cause));
            }
        }
    }

    /// Sends the waiting messages, as far as the main thread has room for them.
    fn hand_over(&mut self) -> Result<(), Closed> {
        while let Some(event) = self.waiting.pop_front() {
            match self.thread.events.try_send(event) {
                Ok(()) => self.thread.main_wakeup.set(),
                Err(TrySendError::Full(event)) => {
                    // The main thread sets the wakeup when it takes the next message.
                    self.waiting.push_front(event);
                    return Ok(());
                }
                Err(TrySendError::Disconnected(_)) => return Err(Closed),
            }
        }
        Ok(())
    }

    /// Sleeps until the main thread or librdkafka sets the wakeup, or scheduled work is due.
    fn sleep(&self) {
        let is_free = self.waiting.is_empty();
        if is_free && self.has_more && self.knows_topics {
            return;
        }
        let probe = self.probe.as_ref().map(Probe::due);
        let compare = self.comparison.next().filter(|_| !self.has_more && !self.is_over);
        let next =
            [probe, self.look_at, self.lost.next(), compare].into_iter().flatten().min().filter(|_| is_free);
        self.thread.wakeup.wait(next.map(|until| until.saturating_duration_since(Instant::now())));
    }
}
