//! The journal that each writer keeps outside the database.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::Value;
use uuid::Uuid;

/// Milliseconds since 1970, by this machine's clock.
pub type Millis = i64;

/// The fate that an event should have if its transaction commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// It arrives, in the order of its key.
    Arrives,
    /// It arrives at any time: it died, and a redrive sent it behind others.
    ArrivesLate,
    /// It dies, and never arrives.
    Dies,
    /// A redrive of it ended unknown.
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
    /// The fate that it should have.
    pub expected: Expected,
}

/// What a writer knows about the end of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The server reported the commit.
    Committed,
    /// The server reported the commit at this time, before it was on disk: a crash soon after may undo it.
    CommittedAsynchronously(Millis),
    /// The writer rolled back, or the transaction failed before COMMIT.
    RolledBack,
    /// The connection broke at COMMIT.
    Unknown,
}

/// The journal of one writer, or of all.
#[derive(Debug, Default)]
pub struct Journal {
    /// All events, also of transactions that did not commit.
    pub entries: Vec<Entry>,
    /// How each transaction ended.
    pub endings: HashMap<i64, Ending>,
    /// How many transactions ended in a deadlock.
    pub deadlocks: usize,
    /// How many transactions were prepared.
    pub prepared: usize,
}

impl Journal {
    /// Adds the journal of another writer.
    pub fn merge(&mut self, other: Journal) {
        self.entries.extend(other.entries);
        self.endings.extend(other.endings);
        self.deadlocks += other.deadlocks;
        self.prepared += other.prepared;
    }

    /// Counts the transactions that are known as committed without having a marker, or as rolled back with one. `crashed`
    /// says whether the server crashed so soon after a time that it may have lost an asynchronous commit of that time.
    pub fn contradicted_by(&self, committed: &HashSet<i64>, crashed: impl Fn(Millis) -> bool) -> usize {
        let contradicts = |(number, ending): &(&i64, &Ending)| match ending {
            Ending::Committed => !committed.contains(number),
            Ending::CommittedAsynchronously(at) => !committed.contains(number) && !crashed(*at),
            Ending::RolledBack => committed.contains(number),
            Ending::Unknown => false,
        };
        self.endings.iter().filter(contradicts).count()
    }

    /// How many transactions satisfy `is_so`.
    pub fn count(&self, is_so: impl Fn(i64, Ending) -> bool) -> usize {
        self.endings.iter().filter(|(number, ending)| is_so(**number, **ending)).count()
    }
}

/// A header's name and value.
pub type Header = (String, Option<Vec<u8>>);

/// A digest of a payload and its headers. JSON is compared as a value, since PostgreSQL stores it in an order of its own;
/// anything else byte for byte.
pub fn digest(payload: Option<&[u8]>, mut headers: Vec<Header>) -> u64 {
    // Headers of one name keep their order; jsonb has no order between names.
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

/// The content type of the payloads of `outbox.emit`.
pub const JSON: &str = "application/json";
