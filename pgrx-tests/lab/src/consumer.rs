//! A consumer that reads topics from their beginning.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};

use crate::wait;

const ASK_DEADLINE: Duration = Duration::from_secs(10);
const READ_ALL_DEADLINE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(100);
/// How long nothing may arrive before what was not read counts as no record.
const SILENCE: Duration = Duration::from_secs(3);
/// How often a waiting consumer looks for new partitions and topics.
const LOOK_FOR_PARTITIONS: Duration = Duration::from_millis(500);

/// A record as a consumer sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset in the partition.
    pub offset: i64,
    /// The key.
    pub key: Option<Vec<u8>>,
    /// The value; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// The headers in their order; a name may repeat, a value may be null.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// CreateTime or LogAppendTime, as the topic is configured; milliseconds since 1970.
    pub timestamp_ms: Option<i64>,
}

impl Record {
    /// The value of the first header of this name, as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(header, _)| header == name)?;
        std::str::from_utf8(value.as_deref()?).ok()
    }

    /// The key as text.
    pub fn key_text(&self) -> Option<&str> {
        std::str::from_utf8(self.key.as_deref()?).ok()
    }

    /// The value as text.
    pub fn value_text(&self) -> Option<&str> {
        std::str::from_utf8(self.value.as_deref()?).ok()
    }
}

impl From<&BorrowedMessage<'_>> for Record {
    fn from(message: &BorrowedMessage<'_>) -> Self {
        let headers = message.headers().map(|headers| {
            headers.iter().map(|header| (header.key.to_string(), header.value.map(<[u8]>::to_vec))).collect()
        });
        Record {
            topic: message.topic().to_string(),
            partition: message.partition(),
            offset: message.offset(),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers: headers.unwrap_or_default(),
            timestamp_ms: message.timestamp().to_millis(),
        }
    }
}

/// Reads topics from their beginning, all partitions, without a group. The topics need not exist yet.
pub struct Consumer {
    inner: BaseConsumer,
    topics: Vec<String>,
    /// The next offset of every partition read so far.
    positions: BTreeMap<(String, i32), i64>,
    looked: Option<Instant>,
    records: Vec<Record>,
    /// The numbers of partitions whose end was reached. rdkafka does not say of which topic.
    ended: BTreeSet<i32>,
    ask_deadline: Duration,
}

impl Consumer {
    /// A consumer at the beginning of `topics`.
    pub fn new(bootstrap_servers: &str, topics: &[&str]) -> Result<Self> {
        let inner = ClientConfig::new()
            .set("bootstrap.servers", bootstrap_servers)
            .set("group.id", "event_outbox_lab")
            .set("enable.auto.commit", "false")
            // What is not committed does not exist.
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "earliest")
            .set("allow.auto.create.topics", "false")
            .set("fetch.wait.max.ms", "50")
            .set("reconnect.backoff.max.ms", "500")
            .set("log_level", "0")
            .create()?;
        let topics = topics.iter().map(ToString::to_string).collect();
        let (positions, records) = (BTreeMap::new(), Vec::new());
        let (looked, ended, ask_deadline) = (None, BTreeSet::new(), ASK_DEADLINE);
        Ok(Self { inner, topics, positions, looked, records, ended, ask_deadline })
    }

    /// Limits how long a request waits for its answer. A broker under torture may never answer.
    pub fn ask_within(mut self, deadline: Duration) -> Self {
        self.ask_deadline = deadline;
        self
    }

    /// The records read so far, in the order of arrival (per partition: by offset).
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Reads until at least `count` records have arrived since the beginning; returns all of them.
    pub fn read_until(&mut self, count: usize, deadline: Duration) -> Result<&[Record]> {
        self.read_until_that(&format!("{count} records"), deadline, |records| records.len() >= count)
    }

    /// Reads until the records read since the beginning satisfy `enough`; returns all of them.
    pub fn read_until_that(
        &mut self,
        what: &str,
        deadline: Duration,
        enough: impl Fn(&[Record]) -> bool,
    ) -> Result<&[Record]> {
        let begin = Instant::now();
        while !enough(&self.records) {
            if begin.elapsed() >= deadline {
                let topics = self.topics.join(", ");
                let count = self.records.len();
                bail!("timed out after {deadline:?} waiting for {what} in {topics}; {count} records arrived");
            }
            self.assign_new_partitions()?;
            self.poll()?;
        }
        Ok(&self.records)
    }

    /// Reads all records that the topics hold at this moment.
    pub fn read_all(bootstrap_servers: &str, topics: &[&str]) -> Result<Vec<Record>> {
        let mut all = Vec::new();
        Self::visit_all(bootstrap_servers, topics, |record| all.push(record))?;
        Ok(all)
    }

    /// Like [`Consumer::read_all`], without keeping the records. A topic that does not exist has none.
    pub fn visit_all(bootstrap_servers: &str, topics: &[&str], mut visit: impl FnMut(Record)) -> Result<()> {
        let mut consumer = Self::new(bootstrap_servers, topics)?;
        // Without an answer about one of them, its records would be left out in silence.
        wait::until_ok("all topics to be known", READ_ALL_DEADLINE, || {
            Ok(consumer.assign_new_partitions()?.then_some(()))
        })?;
        let mut unfinished = consumer.all_ends()?;
        let begin = Instant::now();
        let mut silent_since = Instant::now();
        while !unfinished.is_empty() {
            if begin.elapsed() >= READ_ALL_DEADLINE {
                bail!("{unfinished:?} not read to the end within {READ_ALL_DEADLINE:?}");
            }
            let is_at_end = consumer.poll()?;
            if is_at_end || !consumer.records.is_empty() {
                silent_since = Instant::now();
            }
            consumer.records.drain(..).for_each(&mut visit);
            let positions = &consumer.positions;
            unfinished.retain(|key, end| positions.get(key).is_none_or(|position| position < end));
            // What is left has no records: offsets of transactions' ends and of what was aborted or compacted.
            let has_ended = |(_, number): &(String, i32)| consumer.ended.contains(number);
            if unfinished.keys().all(has_ended) && silent_since.elapsed() >= SILENCE {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The end of each partition. A new leader does not tell it before it knows what was acknowledged; a consumer that reads
    /// comes to an end earlier.
    fn all_ends(&self) -> Result<BTreeMap<(String, i32), i64>> {
        wait::until_ok("the ends of all partitions", READ_ALL_DEADLINE, || Ok(self.ends().ok()))
    }

    /// Returns a record if one arrives within a moment, and does not keep it. The broker may be down.
    pub fn next_record(&mut self) -> Result<Option<Record>> {
        self.assign_new_partitions()?;
        self.poll()?;
        Ok(self.records.pop())
    }

    /// The end of each known partition: the offset of its next record.
    pub fn ends(&self) -> Result<BTreeMap<(String, i32), i64>> {
        let ends = self.positions.keys().map(|(topic, partition)| {
            let (_, end) = self.inner.fetch_watermarks(topic, *partition, self.ask_deadline)?;
            Ok(((topic.clone(), *partition), end))
        });
        ends.collect()
    }

    /// Polls once; returns whether the end of a partition was reached.
    fn poll(&mut self) -> Result<bool> {
        match self.inner.poll(POLL) {
            None => Ok(false),
            Some(Ok(message)) => {
                let record = Record::from(&message);
                self.positions.insert((record.topic.clone(), record.partition), record.offset + 1);
                self.ended.remove(&record.partition);
                self.records.push(record);
                Ok(false)
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                self.ended.insert(partition);
                Ok(true)
            }
            // The broker may be down for a while: the caller's deadline decides.
            Some(Err(error)) if is_transient(&error) => Ok(false),
            Some(Err(error)) => Err(error.into()),
        }
    }

    /// Looks for new partitions, if it has not just done so. Returns whether it is known of each topic which it has, or that it
    /// does not exist.
    fn assign_new_partitions(&mut self) -> Result<bool> {
        if self.looked.is_some_and(|looked| looked.elapsed() < LOOK_FOR_PARTITIONS) {
            return Ok(false);
        }
        self.looked = Some(Instant::now());
        let known = self.positions.len();
        let mut are_known = true;
        for topic in &self.topics {
            let Ok(metadata) = self.inner.fetch_metadata(Some(topic), self.ask_deadline) else {
                are_known = false;
                continue;
            };
            let is_known = metadata.topics().iter().all(|found| {
                found.error().is_none_or(|error| {
                    RDKafkaErrorCode::from(error) == RDKafkaErrorCode::UnknownTopicOrPartition
                })
            });
            are_known &= is_known && !metadata.topics().is_empty();
            for found in metadata.topics().iter().filter(|found| found.error().is_none()) {
                for partition in found.partitions() {
                    self.positions.entry((topic.clone(), partition.id())).or_insert(0);
                }
            }
        }
        if self.positions.len() > known {
            let mut list = TopicPartitionList::new();
            for ((topic, partition), position) in &self.positions {
                let offset = if *position == 0 { Offset::Beginning } else { Offset::Offset(*position) };
                list.add_partition_offset(topic, *partition, offset)?;
            }
            self.inner.assign(&list)?;
        }
        Ok(are_known)
    }
}

fn is_transient(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::BrokerTransportFailure
                | Code::AllBrokersDown
                | Code::OperationTimedOut
                | Code::Resolve
                | Code::NotLeaderForPartition
                | Code::LeaderNotAvailable
                | Code::UnknownTopicOrPartition
                | Code::UnknownPartition
        )
    )
}
