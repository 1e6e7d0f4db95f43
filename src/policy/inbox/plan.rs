//! Decides what a session receives from a lane: events that wait for a retry, or new ones.
//!
//! An event that failed alone waits among the lane's *waiting* events. Later events with its order key are *parked* there when
//! a session meets them, and follow in their order once the failed one is handled or dead. So new events can pass only if
//! none of their order key waits.
//!
//! The caller holds the lane's lock, so nobody else gives out events of it.

use std::collections::{HashMap, HashSet};

use crate::delivery::lanes::Micros;

/// How many events of a subscription may wait. Beyond that, lanes stop at the first event that would have to be parked; and those
/// in which several events that have failed wait stop at once, as the next one may fail, too.
pub const MAX_WAITING: usize = 10_000;

/// How many events that have failed wait in a lane that stops then. So no lane adds more to [`MAX_WAITING`], and one poison event
/// alone stops none.
const FAILED_BEYOND: usize = 2;

/// An event that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Its position.
    pub position: i64,
    /// What it has in common with the events that wait for it; `None` if none does.
    pub order_key: Option<Vec<u8>>,
    /// How often it failed; 0 if it only waits for another.
    pub attempts: u32,
    /// When it may be received, if it failed.
    pub next_attempt_at: Option<Micros>,
    /// It was being received when the server crashed, or may have been.
    pub is_suspect: bool,
}

impl Waiting {
    /// Whether it is received alone, so that it alone is to blame if it fails again.
    #[must_use]
    pub const fn comes_alone(&self) -> bool {
        self.attempts > 0 || self.is_suspect
    }

    fn is_due(&self, now: Micros) -> bool {
        self.next_attempt_at.is_none_or(|at| at <= now)
    }
}

/// The waiting events of a lane.
#[derive(Debug, Default)]
pub struct WaitingEvents {
    events: Vec<Waiting>,
    /// The first one of each order key, by its place.
    heads: HashMap<Vec<u8>, usize>,
    /// How many of them have failed.
    failed: usize,
}

impl WaitingEvents {
    /// The waiting events of a lane, in ascending positions.
    #[must_use]
    pub fn new(events: Vec<Waiting>) -> Self {
        debug_assert!(events.is_sorted_by_key(|event| event.position));
        let mut heads = HashMap::new();
        for (place, event) in events.iter().enumerate() {
            if let Some(key) = &event.order_key {
                heads.entry(key.clone()).or_insert(place);
            }
        }
        let failed = events.iter().filter(|event| event.attempts > 0).count();
        Self { events, heads, failed }
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Whether an event with this order key waits, so that later ones must wait behind it.
    #[must_use]
    pub fn is_blocked(&self, order_key: Option<&[u8]>) -> bool {
        order_key.is_some_and(|key| self.heads.contains_key(key))
    }

    /// The positions of the waiting events to receive now, up to `limit`, in ascending order. An event that has failed, or
    /// is suspect, comes alone.
    #[must_use]
    pub fn due(&self, limit: u32, now: Micros) -> Vec<i64> {
        let mut held: HashSet<&[u8]> = HashSet::new();
        let mut due = Vec::new();
        for event in &self.events {
            if due.len() >= limit as usize {
                break;
            }
            let key = event.order_key.as_deref();
            if key.is_some_and(|key| held.contains(key)) {
                continue;
            }
            let may_join = !event.comes_alone() || due.is_empty();
            if event.is_due(now) && may_join {
                due.push(event.position);
                if event.comes_alone() {
                    break;
                }
            } else {
                held.extend(key);
            }
        }
        due
    }

    /// When the next event that failed may be received, if it is not due yet.
    #[must_use]
    pub fn next_due(&self, now: Micros) -> Option<Micros> {
        self.events.iter().filter_map(|event| event.next_attempt_at).filter(|at| *at > now).min()
    }
}

/// What becomes of a new event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It is received.
    Receive,
    /// It must wait behind one of its order key.
    Park,
    /// Neither it nor a later one can be given out now.
    Stop,
}

/// The new events of a lane, as a session meets them.
#[derive(Debug)]
pub struct NewEvents<'a> {
    waiting: &'a WaitingEvents,
    limit: u32,
    room: usize,
    received: u32,
    upto: i64,
}

impl<'a> NewEvents<'a> {
    /// Begins after `upto`. Up to `limit` events are received, and up to `room` can wait besides those that do.
    #[must_use]
    pub fn new(waiting: &'a WaitingEvents, upto: i64, limit: u32, room: usize) -> Self {
        Self { waiting, limit, room, received: 0, upto }
    }

    /// Decides about the next event. Call it in ascending positions, until it says [`Step::Stop`].
    pub fn consider(&mut self, position: i64, order_key: Option<&[u8]>) -> Step {
        let step = if self.waiting.is_blocked(order_key) {
            if self.room == 0 { Step::Stop } else { Step::Park }
        } else if self.received >= self.limit || (self.room == 0 && self.waiting.failed >= FAILED_BEYOND) {
            Step::Stop
        } else {
            Step::Receive
        };
        match step {
            Step::Receive => self.received += 1,
            Step::Park => self.room = self.room.saturating_sub(1),
            Step::Stop => return Step::Stop,
        }
        self.upto = position;
        step
    }

    /// How many are received.
    #[must_use]
    pub fn received(&self) -> u32 {
        self.received
    }

    /// The last event that was received or parked; where it began if there was none.
    #[must_use]
    pub fn upto(&self) -> i64 {
        self.upto
    }

    /// Whether further events could still be received.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.received < self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(position: i64, key: &str, at: Micros) -> Waiting {
        Waiting {
            position,
            order_key: Some(key.into()),
            attempts: 1,
            next_attempt_at: Some(at),
            is_suspect: false,
        }
    }

    fn parked(position: i64, key: &str) -> Waiting {
        Waiting {
            position,
            order_key: Some(key.into()),
            attempts: 0,
            next_attempt_at: None,
            is_suspect: false,
        }
    }

    #[test]
    fn an_event_that_failed_comes_alone_and_its_followers_after_it() {
        let waiting = WaitingEvents::new(vec![failed(1, "a", 100), parked(2, "a"), parked(3, "a")]);
        assert!(waiting.due(10, 99).is_empty());
        assert_eq!(waiting.next_due(99), Some(100));
        assert_eq!(waiting.due(10, 100), [1]);
        let waiting = WaitingEvents::new(vec![parked(2, "a"), parked(3, "a")]);
        assert_eq!(waiting.due(10, 100), [2, 3]);
        assert_eq!(waiting.due(1, 100), [2]);
    }

    #[test]
    fn a_suspect_event_comes_alone() {
        let suspect = |position| Waiting { is_suspect: true, ..parked(position, "a") };
        let waiting = WaitingEvents::new(vec![parked(1, "b"), suspect(2), suspect(3)]);
        assert_eq!(waiting.due(10, 100), [1]);
        let waiting = WaitingEvents::new(vec![suspect(2), suspect(3), parked(4, "b")]);
        assert_eq!(waiting.due(10, 100), [2]);
    }

    #[test]
    fn a_key_that_waits_holds_back_no_other() {
        let waiting = WaitingEvents::new(vec![
            failed(1, "a", 200),
            parked(2, "a"),
            parked(3, "b"),
            failed(4, "c", 50),
            parked(5, "c"),
            parked(6, "b"),
        ]);
        // The failed event of c does not join others.
        assert_eq!(waiting.due(10, 100), [3, 6]);
        let waiting = WaitingEvents::new(vec![failed(4, "c", 50), parked(5, "b")]);
        assert_eq!(waiting.due(10, 100), [4]);
    }

    #[test]
    fn events_without_an_order_key_wait_for_nothing() {
        let keyless = |position, at| Waiting {
            position,
            order_key: None,
            attempts: 2,
            next_attempt_at: Some(at),
            is_suspect: false,
        };
        let waiting = WaitingEvents::new(vec![keyless(1, 100), keyless(2, 50)]);
        assert_eq!(waiting.due(10, 60), [2]);
        assert!(!waiting.is_blocked(None));
    }

    #[test]
    fn a_lane_with_several_failed_events_stops_when_no_more_may_wait() {
        let step = |waiting: Vec<Waiting>, room| {
            let waiting = WaitingEvents::new(waiting);
            NewEvents::new(&waiting, 5, 2, room).consider(6, Some(b"x"))
        };
        let one = || vec![failed(1, "a", 200), parked(2, "a")];
        let two = || vec![failed(1, "a", 200), failed(2, "b", 100)];
        assert_eq!([step(one(), 0), step(two(), 1)], [Step::Receive; 2]);
        assert_eq!(step(two(), 0), Step::Stop, "the next may fail, too");
    }

    #[test]
    fn new_events_are_received_or_parked() {
        let waiting = WaitingEvents::new(vec![failed(1, "a", 200)]);
        let mut new = NewEvents::new(&waiting, 5, 2, 1);
        let steps =
            [(6, "b"), (7, "a"), (8, "c"), (9, "d")].map(|(at, key)| new.consider(at, Some(key.as_bytes())));
        assert_eq!(steps, [Step::Receive, Step::Park, Step::Receive, Step::Stop]);
        assert_eq!((new.received(), new.upto()), (2, 8));
        let mut new = NewEvents::new(&waiting, 5, 2, 0);
        assert_eq!(new.consider(6, Some(b"a")), Step::Stop, "there is no room to park it");
        assert_eq!(new.upto(), 5);
        // Events to be parked do not end a full batch, so that others find them parked.
        let mut new = NewEvents::new(&waiting, 5, 0, 9);
        assert_eq!(new.consider(6, Some(b"a")), Step::Park);
    }
}
