//! Owns the messages between the main thread and the Kafka thread.
//!
//! Runs in: both threads.

use event_outbox_policy::inbox::records::RecordBatch;
use event_outbox_policy::kafka::statistics::KafkaStatistics;

use crate::kafka::topics::FoundTopic;

/// A partition to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assigned {
    /// The number by which records name it.
    pub number: i32,
    /// Its topic.
    pub topic: String,
    /// The topic's id, as far as it is known.
    pub topic_id: Option<String>,
    /// The partition of the topic.
    pub partition: i32,
    /// The offset of the first record to read.
    pub offset: i64,
    /// The last record that was read, if its leader epoch is known: Kafka must have it still.
    pub last_read: Option<LastRead>,
}

/// The last record that was read of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastRead {
    /// The epoch of the leader that wrote it; negative if Kafka does not say.
    pub leader_epoch: i32,
    /// The offset after it.
    pub end: i64,
}

/// The partitions that are read from now on, instead of those before.
#[derive(Debug, Default)]
pub struct Assignment {
    /// Its number. What was read for an earlier one has that one's number.
    pub generation: u64,
    /// The partitions.
    pub partitions: Vec<Assigned>,
    /// Topics to look up, besides those of the partitions: they may get further partitions.
    pub topics: Vec<String>,
    /// A pattern of topics to look for, besides these.
    pub pattern: Option<String>,
}

/// Records that were read.
#[derive(Debug, Default)]
pub struct Fetched {
    /// The assignment for which they were read.
    pub generation: u64,
    /// The records, of each partition in ascending offsets.
    pub records: RecordBatch,
    /// The partitions that were read to their end after these records: the number, and the offset of the next record that
    /// will be written. It can lie behind the last record, because transactions write records that are no events.
    pub ends: Vec<(i32, i64)>,
    /// The last record of each partition, by its number.
    pub last: Vec<(i32, LastRead)>,
}

impl Fetched {
    /// Nothing yet for this assignment.
    #[must_use]
    pub fn of(generation: u64) -> Self {
        Self { generation, ..Self::default() }
    }

    /// Takes note of a record of the partition of this number.
    pub fn note_last(&mut self, number: i32, last: LastRead) {
        // Records come in runs of a partition.
        match self.last.iter_mut().rev().find(|(known, _)| *known == number) {
            Some((_, known)) => *known = last,
            None => self.last.push((number, last)),
        }
    }
}

/// Kafka no longer has, or never had, the next record of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfRange {
    /// The assignment.
    pub generation: u64,
    /// The partition's number.
    pub number: i32,
    /// The offset that was to be read.
    pub offset: i64,
    /// The first offset that Kafka has.
    pub low: i64,
    /// The offset that Kafka will give to the next record.
    pub high: i64,
    /// The first of the offsets that were read, and where Kafka has other records by now, or none.
    pub truncated_at: Option<i64>,
}

/// What Kafka has of the topics of an assignment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topics {
    /// The assignment.
    pub generation: u64,
    /// Those that exist.
    pub found: Vec<FoundTopic>,
    /// Those that do not, or may not be read, each with the reason.
    pub missing: Vec<(String, String)>,
}

/// A message from the Kafka thread.
#[derive(Debug)]
pub enum ConsumerEvent {
    /// Records, or ends of partitions, or both.
    Fetched(Fetched),
    /// A partition cannot be read on.
    OutOfRange(OutOfRange),
    /// The topics were looked up.
    Topics(Topics),
    /// Topics were created again since they were looked up for this assignment, or since this consumer has begun to read them:
    /// what was read may be of others.
    OtherTopics(u64),
    /// The consumer reads nothing of a partition, by its number, though Kafka has more of it; or it does not learn the end of
    /// any.
    StandsStill(Option<i32>),
    /// A partition cannot be read for another reason: its number, and the reason. librdkafka tries again by itself.
    Trouble(i32, String),
    /// A broker answers.
    Connected,
    /// No broker answers. Holds the reason.
    Disconnected(String),
    /// librdkafka's statistics, if the user has enabled them.
    Statistics(KafkaStatistics),
    /// The consumer could not be created. Holds the reason.
    Broken(String),
}
