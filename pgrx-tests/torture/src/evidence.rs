//! The evidence at the end of a run: what the checker sees.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use uuid::Uuid;

use super::journal::{Header, Journal, Millis, digest};
use event_outbox_lab::Record;

/// How long the server may keep a commit in memory: three times its `wal_writer_delay`.
pub const UNFLUSHED: Millis = 3 * WAL_WRITER_DELAY;

/// The server's `wal_writer_delay`, the longest that it allows.
pub const WAL_WRITER_DELAY: Millis = 10_000;

/// How long an event may be on its way when a fault begins.
const ON_ITS_WAY: Millis = 3_000;

/// Headers of the envelope that the extension adds.
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
    /// When the broker appended it, or the reader read it.
    pub at: Millis,
    /// The id of its event, if it has one.
    pub event_id: Option<Uuid>,
    /// A digest of its key.
    pub key: u64,
    /// A digest of its payload and headers; `None` if the envelope is not complete.
    pub content: Option<u64>,
    /// What it says to a projection.
    pub says: Says,
}

/// What a record says of the row of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    /// Its value is the row.
    Row,
    /// There is no row any more.
    End,
    /// Its value is no JSON object.
    Nothing,
}

impl Says {
    fn of(value: Option<&[u8]>) -> Self {
        match value.map(serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>) {
            None => Self::End,
            Some(Ok(_)) => Self::Row,
            Some(Err(_)) => Self::Nothing,
        }
    }
}

impl Seen {
    /// What to remember of a record; `arrived` is its time if the broker does not say when it arrived.
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
            says: Says::of(record.value.as_deref()),
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
    /// How often the topic had been deleted when it arrived.
    pub generation: usize,
    /// The partition.
    pub partition: i32,
    /// The first and the last offset that it announces.
    pub offsets: (i64, i64),
    /// When it was heard.
    pub at: Millis,
}

/// An event that a receiver has handled, in a transaction that committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Its place in the order of all receipts.
    pub place: i64,
    /// The subscription, by number.
    pub subscription: usize,
    /// The topic, by number.
    pub topic: usize,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// The id of the event.
    pub event_id: Option<Uuid>,
    /// The beginning of its key, and the key's length.
    pub key: Option<(String, i32)>,
}

/// A dead letter of a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Burial {
    /// The subscription, by number.
    pub subscription: usize,
    /// The topic, by number.
    pub topic: usize,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// Why it died.
    pub error: String,
}

/// A subscription went back to an offset: what was handled of it before counts no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seek {
    /// The place of the seek in the order of receipts.
    pub place: i64,
    /// The subscription, by number.
    pub subscription: usize,
    /// The topic, by number.
    pub topic: usize,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub from_offset: i64,
}

/// A row of the table of the projection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProjectedRow {
    /// A digest of its key.
    pub key: u64,
    /// The partition of its record.
    pub partition: i32,
    /// The record's offset.
    pub offset: i64,
}

/// What the receivers did.
#[derive(Debug, Default)]
pub struct Inbox {
    /// What was handled, in the order of places.
    pub receipts: Vec<Receipt>,
    /// The dead letters.
    pub burials: Vec<Burial>,
    /// The seeks.
    pub seeks: Vec<Seek>,
    /// The rows of the projection.
    pub rows: Vec<ProjectedRow>,
    /// Events that were left to be stored or received.
    pub left: usize,
    /// What the inbox said of itself in the end.
    pub status: String,
}

/// Whether receivers always fail at this event. The same rule is in the setup of the receivers.
#[must_use]
pub fn is_poison(event_id: Uuid) -> bool {
    event_id.as_u128() & 0xfff < 4
}

/// A span of time.
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

/// All that the checker sees.
#[derive(Debug, Default)]
pub struct Evidence {
    /// The names of the topics.
    pub topics: Vec<String>,
    /// What the writers wrote.
    pub journal: Journal,
    /// The committed transactions, by the markers that they left.
    pub committed: HashSet<i64>,
    /// Topics that were missing at first and created later, and whose dead letters were redriven.
    pub created_late: HashSet<usize>,
    /// All records, those of a partition in their order.
    pub records: Vec<Seen>,
    /// The dead letters.
    pub dead: Vec<Uuid>,
    /// Events left in the outbox.
    pub left: usize,
    /// When each event last left the outbox.
    pub settled: HashMap<Uuid, Millis>,
    /// What the listener heard.
    pub notices: Vec<Notice>,
    /// When the listener was disconnected.
    pub deaf: Vec<Span>,
    /// What receivers did; `None` if there were none.
    pub inbox: Option<Inbox>,
    /// The crashes of the server, each from before the fault until the server was up again.
    pub crashes: Vec<Span>,
    /// When each fault was active, and its name.
    pub disturbed: Vec<(Span, String)>,
    /// When writers wrote.
    pub lasted: Span,
    /// How events were delivered.
    pub delivery: Delivery,
}

/// `event_outbox.delivery`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Delivery {
    /// The default.
    #[default]
    AtLeastOnce,
    /// Whatever happens, nothing arrives twice.
    AtMostOnce,
    /// The same, and nothing is lost.
    ExactlyOnce,
}

impl Delivery {
    /// The value of the setting.
    pub fn setting(self) -> &'static str {
        match self {
            Self::AtLeastOnce => "at_least_once",
            Self::AtMostOnce => "at_most_once",
            Self::ExactlyOnce => "exactly_once",
        }
    }
}

impl Evidence {
    /// Whether a crash may have undone an asynchronous commit of this time.
    pub fn crashed_soon_after(&self, at: Millis) -> bool {
        self.crashes.iter().any(|crash| (crash.from - UNFLUSHED..=crash.to).contains(&at))
    }

    /// Whether a fault may have lost an event that was deleted at this time, to be published at most once.
    pub fn excuses_loss(&self, deleted: Option<&Millis>) -> bool {
        let Some(at) = deleted.filter(|_| self.delivery == Delivery::AtMostOnce) else { return false };
        self.disturbed.iter().any(|(span, _)| (span.from - ON_ITS_WAY..=span.to).contains(at))
    }

    /// The share of the time without an active fault, in percent.
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
