//! What the writers have written down, each for itself and outside the database.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::Value;
use uuid::Uuid;

/// Milliseconds since 1970, by this machine's clock.
pub type Millis = i64;

/// What is to become of an event, if its transaction commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lot {
    /// It arrives, in the order of its key.
    Arrives,
    /// It arrives at any time: it died, and was sent again behind others.
    ArrivesLate,
    /// It dies, and never arrives.
    Dies,
    /// Somebody tried to send it again, and does not know whether that was committed.
    DiesOrArrivesLate,
    /// It was deleted by hand, perhaps too late: it arrives in order or not at all.
    MayArrive,
    /// Its savepoint was rolled back: it never arrives.
    Never,
}

/// An event.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its identity.
    pub event_id: Uuid,
    /// Its place in the order of its key.
    pub id: i64,
    /// The transaction that emitted it.
    pub transaction: i64,
    /// Its topic, by number.
    pub topic: usize,
    /// Its key.
    pub key: Option<u16>,
    /// A digest of its payload and its headers.
    pub content: u64,
    /// What is to become of it.
    pub lot: Lot,
}

/// What a writer knows of the end of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The server said so.
    Committed,
    /// The server said so at this time, before it was on disk: a crash soon after may take it back.
    CommittedAsynchronously(Millis),
    /// It was never told to commit, or failed before.
    RolledBack,
    /// The connection broke at COMMIT.
    Unknown,
}

/// The notes of one writer, or of all.
#[derive(Debug, Default)]
pub struct Journal {
    /// All events, also of transactions that did not commit.
    pub entries: Vec<Entry>,
    /// How each transaction ended.
    pub endings: HashMap<i64, Ending>,
    /// How often a transaction was met by a deadlock.
    pub deadlocks: usize,
    /// Transactions prepared and ended later.
    pub prepared: usize,
}

impl Journal {
    /// Adds the notes of another writer.
    pub fn merge(&mut self, other: Journal) {
        self.entries.extend(other.entries);
        self.endings.extend(other.endings);
        self.deadlocks += other.deadlocks;
        self.prepared += other.prepared;
    }

    /// Compares what the writers know with the markers of the transactions that committed. Gives how many
    /// were known as committed and are not, or as rolled back and are. `crashed`: whether the server crashed so soon after
    /// a time that it may have lost what it had committed then without waiting for the disk.
    pub fn contradicted_by(&self, committed: &HashSet<i64>, crashed: impl Fn(Millis) -> bool) -> usize {
        let contradicts = |(number, ending): &(&i64, &Ending)| match ending {
            Ending::Committed => !committed.contains(number),
            Ending::CommittedAsynchronously(at) => !committed.contains(number) && !crashed(*at),
            Ending::RolledBack => committed.contains(number),
            Ending::Unknown => false,
        };
        self.endings.iter().filter(contradicts).count()
    }

    /// How many transactions ended so.
    pub fn count(&self, is_so: impl Fn(i64, Ending) -> bool) -> usize {
        self.endings.iter().filter(|(number, ending)| is_so(**number, **ending)).count()
    }
}

/// A header's name and value.
pub type Header = (String, Option<Vec<u8>>);

/// A digest of a payload and of the headers that tell of it. JSON is compared as a value, since PostgreSQL stores
/// it in its own order; anything else byte for byte.
pub fn digest(payload: Option<&[u8]>, mut headers: Vec<Header>) -> u64 {
    // Headers of one name keep their order; jsonb knows none between names.
    headers.sort_by(|(a, _), (b, _)| a.cmp(b));
    let is_json = headers
        .iter()
        .any(|(name, value)| name == "content-type" && value.as_deref() == Some(JSON.as_bytes()));
    let mut hasher = DefaultHasher::new();
    match payload.filter(|_| is_json).and_then(|bytes| serde_json::from_slice::<Value>(bytes).ok()) {
        Some(value) => value.to_string().hash(&mut hasher),
        None => payload.hash(&mut hasher),
    }
    headers.hash(&mut hasher);
    hasher.finish()
}

/// What `outbox.emit` says of its payloads.
pub const JSON: &str = "application/json";
