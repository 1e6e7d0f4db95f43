//! What was found when all was over: the checker's input besides the journal.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use uuid::Uuid;

use super::journal::{Header, Journal, Millis, digest};
use event_outbox_lab::Record;

/// How long the server may leave a commit in memory: three times its `wal_writer_delay`.
pub const UNFLUSHED: Millis = 3 * WAL_WRITER_DELAY;

/// The server's `wal_writer_delay`, the longest there is.
pub const WAL_WRITER_DELAY: Millis = 10_000;

/// Headers of the envelope that no author gives.
const ENVELOPE: [&str; 4] = ["ce_specversion", "ce_id", "ce_source", "ce_time"];

/// A record that was found in Kafka.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its topic, by number.
    pub topic: usize,
    /// How often the topic had been deleted before.
    pub generation: usize,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// When the broker appended it, or it was read.
    pub at: Millis,
    /// Its event, if it says so.
    pub event_id: Option<Uuid>,
    /// A digest of its key.
    pub key: u64,
    /// A digest of its payload and headers; `None` if the envelope is not complete.
    pub content: Option<u64>,
}

impl Seen {
    /// What is to be remembered of a record of this topic; `arrived` if the broker does not say when it came.
    pub fn of(record: &Record, topic: usize, generation: usize, arrived: Option<Millis>) -> Self {
        let is_complete =
            ENVELOPE.iter().all(|name| record.header(name).is_some_and(|value| !value.is_empty()))
                && record.header("ce_specversion") == Some("1.0");
        let told: Vec<Header> =
            record.headers.iter().filter(|(name, _)| !ENVELOPE.contains(&&**name)).cloned().collect();
        Self {
            topic,
            generation,
            partition: record.partition,
            offset: record.offset,
            at: arrived.or(record.timestamp_ms).unwrap_or_default(),
            event_id: record.header("ce_id").and_then(|id| Uuid::parse_str(id).ok()),
            key: key_digest(record.key.as_deref()),
            content: is_complete.then(|| digest(record.value.as_deref(), told)),
        }
    }
}

/// A digest of a record's key.
pub fn key_digest(key: Option<&[u8]>) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

/// A notification of published events.
#[derive(Clone, Debug)]
pub struct Notice {
    /// The topic, by number.
    pub topic: usize,
    /// How often the topic had been deleted when it came.
    pub generation: usize,
    /// The partition.
    pub partition: i32,
    /// The offsets it speaks of, from the first to the last.
    pub offsets: (i64, i64),
}

/// A stretch of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Its beginning.
    pub from: Millis,
    /// Its end.
    pub to: Millis,
}

impl Span {
    /// Whether a moment lies within.
    pub fn contains(self, at: Millis) -> bool {
        (self.from..=self.to).contains(&at)
    }
}

/// All that is to be judged.
#[derive(Debug, Default)]
pub struct Evidence {
    /// The names of the topics.
    pub topics: Vec<String>,
    /// What the writers wrote.
    pub journal: Journal,
    /// The transactions that committed, by the markers that they left.
    pub committed: HashSet<i64>,
    /// Topics that did not exist, were created later, and whose dead were sent again.
    pub mended: HashSet<usize>,
    /// All records, those of a partition in their order.
    pub records: Vec<Seen>,
    /// The dead letters.
    pub dead: Vec<Uuid>,
    /// Events left in the outbox.
    pub left: usize,
    /// When events left the outbox last.
    pub settled: HashMap<Uuid, Millis>,
    /// What the listener heard.
    pub notices: Vec<Notice>,
    /// When it was not listening.
    pub deaf: Vec<Span>,
    /// When the server crashed, from before it was hit until it was up again.
    pub crashes: Vec<Span>,
    /// When a fault was at work, and what it was.
    pub disturbed: Vec<(Span, String)>,
    /// How long writers wrote.
    pub lasted: Span,
}

impl Evidence {
    /// Whether a crash may have taken back what was committed at this time without waiting for the disk.
    pub fn crashed_soon_after(&self, at: Millis) -> bool {
        self.crashes.iter().any(|crash| (crash.from - UNFLUSHED..=crash.to).contains(&at))
    }

    /// The share of the time when no fault was at work, in percent.
    pub fn calm_percent(&self) -> i64 {
        let mut spans: Vec<Span> = self.disturbed.iter().map(|(span, _)| *span).collect();
        spans.sort_by_key(|span| span.from);
        let Span { from: mut at, to: end } = self.lasted;
        let mut calm = 0;
        for span in spans {
            calm += (span.from.min(end) - at).max(0);
            at = at.max(span.to);
        }
        calm += (end - at).max(0);
        100 * calm / (end - self.lasted.from).max(1)
    }
}
