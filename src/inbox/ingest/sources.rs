//! Owns a source: a subscription with the consumer that reads for it.
//!
//! Runs in: an ingest worker, main thread.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use event_outbox_policy::backoff::{Backoff, Doubling};
use event_outbox_policy::kafka::consumer::ConsumerConfig;

use super::catalog::{Definition, Partition};
use crate::kafka::consumer::handle::ConsumerHandle;
use crate::kafka::consumer::messages::{Assigned, Assignment, ConsumerEvent, Fetched, LastRead};
use crate::kafka::threads::StartError;
use crate::kafka::wakeup_fd::WakeupFd;
use crate::worker::metrics::Connection;

/// The first and the longest pause after a consumer that could not be started, or ended.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// When to try again while a session is changing the subscription.
pub const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// How long no broker may answer before another consumer takes the place of one. librdkafka does not always find a broker that
/// comes back at another address; a new consumer starts from the bootstrap servers. Each consumer gets twice as long as the
/// one before, because a broker far away answers late.
const STUCK: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(240));

/// Two consumers that are replaced because of topics are at least so far apart, or a pause is made.
const RENEWAL_PAUSE: Duration = Duration::from_secs(2);

/// How long librdkafka may take to end.
const THREAD_END: Duration = Duration::from_millis(500);

/// A source.
pub struct Source {
    /// The subscription as it is known.
    pub definition: Definition,
    /// The connection of its consumer.
    pub connection: Connection,
    /// Events that were read and are not stored yet.
    pub pending: Option<Fetched>,
    /// The settings do not allow a consumer to be started.
    pub is_misconfigured: bool,
    /// A topic or partition cannot be read.
    pub has_trouble: bool,
    /// The partitions that are to be read, and that no broker leads, by topic.
    leaderless: BTreeMap<String, BTreeSet<i32>>,
    /// When to try again what could not be stored.
    pub retry_at: Option<Instant>,
    /// The partitions must be assigned again then.
    must_reassign: bool,
    consumer: Option<ConsumerHandle>,
    /// Since when no broker answers this consumer.
    unanswered: Option<Instant>,
    stuck: Doubling,
    backoff: Backoff,
    assignment: u64,
    /// The partitions that were read to their end, by their numbers.
    at_end: BTreeSet<i32>,
    /// Topics that have another id than the one that is stored, each with the id. A new consumer is to confirm it.
    pub other_ids: BTreeMap<String, String>,
    /// When the consumer was last replaced because of topics.
    renewed_at: Option<Instant>,
}

impl Source {
    /// A source that reads nothing yet.
    #[must_use]
    pub fn new(definition: Definition) -> Self {
        Self {
            definition,
            connection: Connection::Unknown,
            pending: None,
            is_misconfigured: false,
            has_trouble: false,
            leaderless: BTreeMap::new(),
            retry_at: None,
            must_reassign: false,
            consumer: None,
            unanswered: None,
            stuck: Doubling::new(STUCK.0, STUCK.1),
            backoff: Backoff::new(PAUSE.0, PAUSE.1),
            assignment: 0,
            at_end: BTreeSet::new(),
            other_ids: BTreeMap::new(),
            renewed_at: None,
        }
    }

    /// Takes over a changed definition. Reads on where it was if that is where the definition is, too. It is not after a seek,
    /// nor if there are batches that this worker did not store: a dump was restored, or a commit was taken for a failure.
    pub fn redefine(&mut self, mut definition: Definition) {
        let has_moved =
            definition.generation != self.definition.generation || definition.batch > self.definition.batch;
        for (new, old) in definition.partitions.iter_mut().zip(&self.definition.partitions) {
            new.exists = old.exists;
            if !has_moved {
                // What is pending was not stored yet.
                (new.next_offset, new.last_read) = (old.next_offset, old.last_read);
            }
        }
        if !has_moved {
            definition.batch = self.definition.batch;
        }
        let is_same = |new: &Partition, old: &Partition| {
            (new.partition, &new.topic, new.is_stopped) == (old.partition, &old.topic, old.is_stopped)
        };
        let (new, old) = (&definition.partitions, &self.definition.partitions);
        let reads_the_same = !has_moved
            && definition.pattern == self.definition.pattern
            && definition.topics == self.definition.topics
            && new.len() == old.len()
            && new.iter().zip(old).all(|(new, old)| is_same(new, old));
        self.definition = definition;
        if !reads_the_same {
            self.assign();
        }
    }

    /// Starts the consumer, if there is none and it may be started now.
    ///
    /// # Errors
    /// [`StartError`]; the next try comes after a pause.
    pub fn tend(&mut self, config: &ConsumerConfig, wakeup: &Arc<WakeupFd>) -> Result<(), StartError> {
        if self.must_reassign && self.may_store() {
            self.assign();
        }
        if self.consumer.is_some() || !self.backoff.is_over(Instant::now()) {
            return Ok(());
        }
        self.is_misconfigured = false;
        match ConsumerHandle::start(config, wakeup.clone()) {
            Ok(consumer) => {
                self.consumer = Some(consumer);
                self.assign();
                Ok(())
            }
            Err(error) => {
                self.is_misconfigured = true;
                self.backoff.record_failure(Instant::now());
                Err(error)
            }
        }
    }

    /// Whether something may be stored now.
    #[must_use]
    pub fn may_store(&self) -> bool {
        self.retry_at.is_none_or(|at| at <= Instant::now())
    }

    /// A reaction to Kafka could not be stored: the partitions are assigned again later, and Kafka says the same again.
    pub fn put_off(&mut self) {
        self.must_reassign = true;
        self.retry_at = Some(Instant::now() + RETRY_PAUSE);
    }

    /// Has the partitions read from their next offsets on. What was read before does not count any more.
    pub fn assign(&mut self) {
        (self.pending, self.retry_at, self.must_reassign) = (None, None, false);
        self.assignment += 1;
        self.at_end.clear();
        let Some(consumer) = &self.consumer else { return };
        let partitions = self.definition.partitions.iter().enumerate();
        let assigned =
            partitions.filter(|(_, partition)| partition.is_read()).map(|(number, partition)| Assigned {
                number: i32::try_from(number).unwrap_or(i32::MAX),
                topic: partition.topic.clone(),
                topic_id: partition.topic_id.clone(),
                partition: partition.partition,
                offset: partition.next_offset,
                last_read: partition.last_read,
            });
        consumer.assign(Assignment {
            generation: self.assignment,
            partitions: assigned.collect(),
            topics: self.definition.topics.clone(),
            pattern: self.definition.pattern.clone(),
        });
    }

    /// The next message of the consumer, if it concerns what is assigned now. None is taken while events are pending.
    pub fn next_event(&mut self) -> Option<ConsumerEvent> {
        let consumer = self.consumer.as_ref().filter(|_| self.pending.is_none() && !self.must_reassign)?;
        loop {
            let event = consumer.next_event()?;
            let generation = match &event {
                ConsumerEvent::Fetched(fetched) => fetched.generation,
                ConsumerEvent::OutOfRange(found) => found.generation,
                ConsumerEvent::Topics(topics) => topics.generation,
                ConsumerEvent::OtherTopics(generation) => *generation,
                _ => self.assignment,
            };
            if generation == self.assignment {
                return Some(event);
            }
        }
    }

    /// The next offset of each partition once these records are stored.
    #[must_use]
    pub fn offsets_after(&self, fetched: &Fetched) -> Vec<Option<i64>> {
        let mut next: Vec<Option<i64>> =
            self.definition.partitions.iter().map(|partition| Some(partition.next_offset)).collect();
        let records = fetched.records.iter().map(|record| (record.partition, record.offset + 1));
        for (number, offset) in records.chain(fetched.ends.iter().copied()) {
            if let Some(next) = usize::try_from(number).ok().and_then(|number| next.get_mut(number)) {
                *next = (*next).max(Some(offset));
            }
        }
        next
    }

    /// The last record of each partition once these are stored.
    #[must_use]
    pub fn last_after(&self, fetched: &Fetched) -> Vec<Option<LastRead>> {
        let mut last: Vec<Option<LastRead>> =
            self.definition.partitions.iter().map(|partition| partition.last_read).collect();
        for (number, read) in &fetched.last {
            if let Some(last) = usize::try_from(*number).ok().and_then(|number| last.get_mut(number)) {
                // Brokers that are old give no epochs.
                *last = Some(*read).filter(|read| read.leader_epoch >= 0);
            }
        }
        last
    }

    /// Records up to these offsets are stored.
    pub fn stored(&mut self, next_offsets: &[Option<i64>], last_reads: &[Option<LastRead>]) {
        self.definition.batch += 1;
        let stored = next_offsets.iter().zip(last_reads);
        for (partition, (next, last)) in self.definition.partitions.iter_mut().zip(stored) {
            partition.next_offset = next.unwrap_or(partition.next_offset);
            partition.last_read = *last;
        }
    }

    /// Notes which partitions were read to their end.
    pub fn note_ends(&mut self, fetched: &Fetched) {
        for record in fetched.records.iter() {
            self.at_end.remove(&record.partition);
        }
        self.at_end.extend(fetched.ends.iter().map(|(number, _)| number));
    }

    /// Whether a partition is stopped.
    #[must_use]
    pub fn has_stopped(&self) -> bool {
        self.definition.partitions.iter().any(|partition| partition.is_stopped)
    }

    /// Whether all partitions that are read were read to their end.
    #[must_use]
    pub fn is_at_end(&self) -> bool {
        let reading = self.definition.partitions.iter().filter(|partition| partition.is_read()).count();
        self.at_end.len() >= reading
    }

    /// Whether a message waits that [`Source::next_event`] would take.
    #[must_use]
    pub fn has_event(&self) -> bool {
        self.pending.is_none()
            && !self.must_reassign
            && self.consumer.as_ref().is_some_and(ConsumerHandle::has_event)
    }

    /// Whether its consumer has ended by itself. If so, another is started after a pause.
    pub fn take_end(&mut self) -> bool {
        let has_ended =
            self.consumer.as_ref().is_some_and(|consumer| consumer.has_ended() && !consumer.has_event());
        if has_ended {
            self.stop();
            self.backoff.record_failure(Instant::now());
        }
        has_ended
    }

    /// No broker answers.
    pub fn disconnected(&mut self) {
        self.connection = Connection::Disconnected;
        self.unanswered = self.unanswered.or(Some(Instant::now()));
    }

    /// When another consumer takes the place of this one, if no broker answers until then.
    #[must_use]
    pub fn stuck_at(&self) -> Option<Instant> {
        self.unanswered.filter(|_| self.consumer.is_some()).map(|since| since + self.stuck.peek())
    }

    /// Ends a consumer that no broker has answered for long; another one is started at once.
    pub fn replace_stuck(&mut self) {
        if self.stuck_at().is_some_and(|date| date <= Instant::now()) {
            let connection = self.connection;
            self.stuck.take();
            self.stop();
            // It is the same outage until a broker answers.
            self.connection = connection;
            self.unanswered = Some(Instant::now());
        }
    }

    /// Ends a consumer that reads nothing of a partition though Kafka has more, or learns the end of none; another one is
    /// started at once. librdkafka can forget a broker for good that was away.
    pub fn replace_standing(&mut self, number: Option<i32>) {
        let of = number.and_then(|number| self.definition.partitions.get(usize::try_from(number).ok()?));
        let what = of.map_or("its partitions".to_owned(), |of| {
            format!("partition {} of topic \"{}\", though there is more", of.partition, of.topic)
        });
        tracing::warn!(
            "the Kafka consumer of subscription \"{}\" reads nothing of {what}; another one takes its place",
            self.definition.name
        );
        self.stop();
    }

    /// Ends a consumer whose topics were created again; another one is started at once, or after a moment if that is not the
    /// first one: brokers learn of topics one after the other. librdkafka goes on with what it knows of the old topics.
    pub fn renew(&mut self) {
        let now = Instant::now();
        if self.renewed_at.replace(now).is_some_and(|last| last + RENEWAL_PAUSE > now) {
            self.backoff.record_end(now);
        }
        self.stop();
    }

    /// Whether this consumer was started since a topic was first said to have this id. If not, it is replaced by one that says
    /// which id the topic has: a broker that is late to hear of topics may have answered.
    pub fn confirms(&mut self, topic: &str, id: &str) -> bool {
        let is_confirmed = self.other_ids.insert(topic.into(), id.into()).is_some_and(|known| known == id);
        if !is_confirmed {
            self.renew();
        }
        is_confirmed
    }

    /// Takes note of the partitions of a topic that have no leader. Returns those that are to be read, if these are others than
    /// before.
    pub fn note_leaderless(&mut self, topic: &str, partitions: &[i32]) -> Option<BTreeSet<i32>> {
        let read = self.definition.partitions.iter().filter(|of| of.topic == topic && of.is_read());
        let leaderless: BTreeSet<i32> =
            read.map(|of| of.partition).filter(|partition| partitions.contains(partition)).collect();
        let before = if leaderless.is_empty() {
            self.leaderless.remove(topic)
        } else {
            self.leaderless.insert(topic.to_owned(), leaderless.clone())
        };
        (before.unwrap_or_default() != leaderless).then_some(leaderless)
    }

    /// Whether a partition that is to be read has no leader.
    #[must_use]
    pub fn lacks_leaders(&self) -> bool {
        !self.leaderless.is_empty()
    }

    /// Takes note of the number of a topic's partitions. Returns whether others than before exist.
    pub fn note_partitions(&mut self, topic: &str, count: i32) -> bool {
        let mut is_changed = false;
        for partition in self.definition.partitions.iter_mut().filter(|known| known.topic == topic) {
            let exists = partition.partition < count;
            is_changed |= std::mem::replace(&mut partition.exists, exists) != exists;
        }
        is_changed
    }

    /// A broker has answered.
    pub fn connected(&mut self) {
        self.unanswered = None;
        self.stuck.reset();
        self.connection = Connection::Connected;
        self.backoff.record_success();
    }

    /// Ends the consumer.
    pub fn stop(&mut self) {
        self.connection = Connection::Unknown;
        self.unanswered = None;
        self.pending = None;
        if let Some(consumer) = self.consumer.take() {
            consumer.stop(Instant::now() + THREAD_END);
        }
    }

    /// Lets the next consumer be started at once, because the cause of the last failure may be gone.
    pub fn forgive(&mut self) {
        self.backoff.record_success();
    }

    /// When the next consumer may be started, if there is none.
    #[must_use]
    pub fn next_start(&self) -> Option<Instant> {
        self.consumer.is_none().then(|| self.backoff.until().unwrap_or_else(Instant::now))
    }
}
