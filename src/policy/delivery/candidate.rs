//! What is asked about a row that was read, what the answer is, and how an event ends.

use super::lanes::Micros;
use crate::reading::backlog::Topic;

/// The reader of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The reader of new rows, or the safety net.
    New,
    /// The lookup of an event that is due.
    Due,
    /// The turn of a topic.
    Turn(Topic),
}

/// What the reader of a row does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It continues with the next row.
    Next,
    /// There is no room for the event.
    NoRoom,
    /// No more events of this topic may be in flight.
    Denied {
        /// Whether this applies to all keys of the topic, or only to that of this event.
        for_all: bool,
    },
    /// No more events of this topic may wait.
    Saturated,
}

/// The parts of a row that decide whether its event may be sent.
#[derive(Debug, Clone, Copy)]
pub struct Candidate {
    /// The event.
    pub id: i64,
    /// Its topic, by [`InFlight::topic`](super::in_flight::InFlight::topic).
    pub topic: Topic,
    /// When it may be retried, if it was refused.
    pub not_before: Option<Micros>,
    /// Whether an event of its topic was ever published. If so it is taken even when no more topics may fall behind.
    pub is_known: bool,
}

/// The outcome of an event in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It is published, and its row is gone.
    Delivered,
    /// It was refused at its last attempt.
    Dead,
    /// It was not published, its row is gone, and nothing follows: it was to be delivered at most once.
    GivenUp,
    /// It was refused, and is retried at this time.
    RetryAt(Micros),
    /// It came back through no fault of its own, and waits until this time.
    Returned(Micros),
    /// It came back with a batch that was refused at this time.
    Suspect(Micros),
    /// It must be read and sent again: its producer stopped, or its row was changed.
    GivenBack,
}
