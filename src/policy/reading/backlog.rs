//! Owns the topics whose events must wait, and gives each its share of every pass.
//!
//! A pass reads new rows in ascending ids. When an event of a topic must wait, because it was refused, or because no more
//! events of its topic may be in flight, the pass neither waits for it nor comes back for it: the topic falls *behind*.
//! From then on the reader of new rows skips all of its rows, and the topic is read separately, in turns: a few rows of
//! each such topic in a pass, one topic after the other. So a problem of one topic does not slow down the others, and
//! their new rows are found, however many rows of this topic lie before them.
//!
//! ```text
//!            mark_behind, deny                     turn ended: all its rows were seen
//!  (in good standing) ------> behind, rows wanted ------------> behind, nothing wanted
//!         ^                      ^                                 |           |
//!         |                      +------------- want --------------+           |
//!         +------------------- no lane of it is closed, nobody denied ---------+
//! ```
//!
//! Why the order of a key is kept: one reader at a time reads a topic, in ascending ids. In each pass the reader of new rows
//! goes first, and a turn reads with the same snapshot and no further than that reader came. So a row that became visible
//! late has been skipped, and thus wanted, before a turn can read one behind it. A topic returns to good standing when a turn
//! has come as far as that reader and none of its events must wait.
//!
//! A topic's turn may read many rows of others before it meets one of its own, so a round of thousands of turns takes long.
//! Topics whose events are accepted do not wait for those whose events are refused: each kind has a queue of its own, and the
//! two take turns alternately.
//!
//! It follows that each unsent event of a topic that is behind waits behind a closed lane, or lies above the id from which
//! the topic must be read, or lies above the id that the reader of new rows has reached. So an event may be looked up by its
//! id, ahead of the others, only if it lies above neither of these ids ([`Backlog::reads_before`]), whatever the topic waits
//! for.

use std::collections::{HashMap, HashSet};

use foldhash::fast::RandomState;

use super::turns::Turns;

/// A topic's name, hashed by the caller. If two collide, the only effect is that they share their turns.
pub type Topic = u64;

/// How a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// All its rows were read, as far as the reader of new rows came.
    CaughtUp,
    /// The turn read its full share. Rows after this id are still wanted.
    UsedUp(i64),
    /// There was no room for the row after this id.
    NoRoom(i64),
    /// Too many of its events wait, so the one after this id may not join them.
    Saturated(i64),
    /// No more events of the topic may be in flight. [`Backlog::deny`] was called for the event.
    Denied,
}

#[derive(Debug, Default)]
struct Place {
    /// Rows above this id are wanted.
    next: Option<i64>,
    denied: bool,
    saturated: bool,
    queued: bool,
    /// The last answer for an event of the topic was a publication.
    accepted: bool,
}

impl Place {
    /// The row with this id is wanted. Returns whether this lowers `next`.
    fn go_back(&mut self, id: i64) -> bool {
        let after = id.saturating_sub(1);
        let lower = self.next.is_none_or(|next| after < next);
        if lower {
            self.next = Some(after);
        }
        lower
    }
}

/// The topics that are behind.
#[derive(Debug)]
pub struct Backlog {
    limit: usize,
    topics: HashMap<Topic, Place, RandomState>,
    turns: Turns<Topic>,
    saturated: HashSet<Topic, RandomState>,
    /// The turn under way.
    turn: Option<(Topic, i64)>,
}

impl Backlog {
    /// Starts with no topic behind. When `limit` topics are behind, [`Backlog::is_full`] holds.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            topics: HashMap::default(),
            turns: Turns::default(),
            saturated: HashSet::default(),
            turn: None,
        }
    }

    /// Whether no topic is behind.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// Whether so many topics are behind that no further one may fall behind. Then no row of a topic that could is taken.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.topics.len() >= self.limit
    }

    /// Whether this topic is behind, so that only turns may take its rows.
    #[must_use]
    pub fn is_behind(&self, topic: Topic) -> bool {
        !self.topics.is_empty() && self.topics.contains_key(&topic)
    }

    /// Whether rows of the topic before this one remain to be read in turns.
    #[must_use]
    pub fn reads_before(&self, topic: Topic, id: i64) -> bool {
        let next = self.topics.get(&topic).and_then(|place| place.next);
        next.is_some_and(|after| after < id.saturating_sub(1))
    }

    /// Whether any topic can have its turn now.
    #[must_use]
    pub fn has_turns(&self) -> bool {
        self.turns.len() > 0
    }

    /// Whether any topic waits until fewer of its events wait.
    #[must_use]
    pub fn has_saturated(&self) -> bool {
        !self.saturated.is_empty()
    }

    /// The number of topics that can have their turn now.
    #[must_use]
    pub fn turns(&self) -> usize {
        self.turns.len()
    }

    /// An event of this topic must wait: from now on the topic is read in turns.
    pub fn mark_behind(&mut self, topic: Topic) {
        self.topics.entry(topic).or_default();
    }

    /// The row with this id was skipped, or must be read again.
    pub fn want(&mut self, topic: Topic, id: i64) {
        let place = self.topics.entry(topic).or_default();
        if place.go_back(id) {
            // Fewer of its events wait before this id.
            place.saturated = false;
            self.saturated.remove(&topic);
        }
        self.queue(topic);
    }

    /// This event was turned away because no more events of its topic may be in flight. It is read again when more may.
    pub fn deny(&mut self, topic: Topic, id: i64) {
        let place = self.topics.entry(topic).or_default();
        place.denied = true;
        place.go_back(id);
    }

    /// More events of the topic may be in flight, from this id on, which was turned away.
    pub fn allow(&mut self, topic: Topic, id: i64) {
        self.topics.entry(topic).or_default().denied = false;
        self.want(topic, id);
    }

    /// The producer was replaced: all rows will be skipped again, and no topic is denied any more.
    pub fn allow_all(&mut self) {
        let topics: Vec<Topic> = self.topics.keys().copied().collect();
        for topic in topics {
            self.topics.entry(topic).or_default().denied = false;
            self.queue(topic);
        }
    }

    /// Gives their turns back to topics that are no longer saturated. `is_saturated` gets a topic and the id at which it must
    /// be read next.
    pub fn requeue(&mut self, is_saturated: impl Fn(Topic, i64) -> bool) {
        let still = |topic: Topic| {
            let next = self.topics.get(&topic).and_then(|place| place.next);
            next.is_some_and(|after| is_saturated(topic, after.saturating_add(1)))
        };
        let ready: Vec<Topic> = self.saturated.iter().copied().filter(|topic| !still(*topic)).collect();
        for topic in ready {
            self.saturated.remove(&topic);
            if let Some(place) = self.topics.get_mut(&topic) {
                place.saturated = false;
                self.queue(topic);
            }
        }
    }

    /// Begins a turn: returns the topic, and the id after which to read. Call [`Backlog::end_turn`] afterwards.
    pub fn begin_turn(&mut self) -> Option<(Topic, i64)> {
        while let Some(topic) = self.turns.pop() {
            let Some(place) = self.topics.get_mut(&topic) else { continue };
            place.queued = false;
            if place.denied {
                continue;
            }
            if let Some(after) = place.next.take() {
                self.turn = Some((topic, after));
                return self.turn;
            }
        }
        None
    }

    /// Ends the turn.
    pub fn end_turn(&mut self, ended: Ended) {
        let Some((topic, _)) = self.turn.take() else { return };
        let Some(place) = self.topics.get_mut(&topic) else { return };
        let next = match ended {
            Ended::CaughtUp | Ended::Denied => None,
            Ended::UsedUp(after) | Ended::NoRoom(after) | Ended::Saturated(after) => Some(after),
        };
        // Rows may have become wanted meanwhile.
        place.next = place.next.into_iter().chain(next).min();
        if matches!(ended, Ended::Saturated(_)) {
            place.saturated = true;
            self.saturated.insert(topic);
        }
        // If there was no room, its turn comes first when there is some.
        self.queue_as(topic, matches!(ended, Ended::NoRoom(_)));
    }

    /// The pass failed, so the rows that the current turn has read do not count.
    pub fn abandon(&mut self) {
        if let Some((_, after)) = self.turn {
            self.end_turn(Ended::UsedUp(after));
        }
    }

    /// Returns the topic to good standing if none of its rows is wanted and none of its lanes is `closed`.
    pub fn remove_if_caught_up(&mut self, topic: Topic, closed: bool) {
        let done = |place: &Place| !(closed || place.denied || place.saturated) && place.next.is_none();
        if self.topics.get(&topic).is_some_and(done) && self.turn.is_none_or(|(current, _)| current != topic)
        {
            // If the queue still lists it, `begin_turn` will skip it.
            self.topics.remove(&topic);
        }
    }

    /// The same for all topics.
    pub fn remove_all_caught_up(&mut self, is_closed: impl Fn(Topic) -> bool) {
        let topics: Vec<Topic> = self.topics.keys().copied().collect();
        topics.into_iter().for_each(|topic| self.remove_if_caught_up(topic, is_closed(topic)));
    }

    /// An event of the topic was published, or refused. Turns that are queued already keep their place.
    pub fn answered(&mut self, topic: Topic, accepted: bool) {
        if let Some(place) = self.topics.get_mut(&topic) {
            place.accepted = accepted;
        }
    }

    fn queue(&mut self, topic: Topic) {
        self.queue_as(topic, false);
    }

    fn queue_as(&mut self, topic: Topic, first: bool) {
        let Some(place) = self.topics.get_mut(&topic) else { return };
        if place.next.is_none() || place.denied || place.saturated || place.queued {
            return;
        }
        place.queued = true;
        if first {
            self.turns.push_first(topic, place.accepted);
        } else {
            self.turns.push(topic, place.accepted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_take_turns() {
        let mut backlog = Backlog::new(10);
        backlog.want(1, 5);
        backlog.want(1, 7);
        backlog.want(2, 6);
        assert_eq!(backlog.begin_turn(), Some((1, 4)));
        backlog.end_turn(Ended::UsedUp(6));
        assert_eq!(backlog.begin_turn(), Some((2, 5)));
        backlog.end_turn(Ended::CaughtUp);
        backlog.remove_if_caught_up(2, false);
        assert!(!backlog.is_behind(2));
        assert_eq!(backlog.begin_turn(), Some((1, 6)));
        backlog.end_turn(Ended::CaughtUp);
        backlog.remove_if_caught_up(1, true);
        assert!(backlog.is_behind(1), "an event of it waits");
        assert_eq!(backlog.begin_turn(), None);
        backlog.remove_if_caught_up(1, false);
        assert!(backlog.is_empty());
    }

    #[test]
    fn one_that_was_denied_has_its_turn_when_more_may_be_in_flight() {
        let mut backlog = Backlog::new(10);
        backlog.deny(1, 6);
        assert_eq!(backlog.begin_turn(), None);
        backlog.remove_if_caught_up(1, false);
        assert!(backlog.is_behind(1));
        backlog.allow(1, 5);
        assert_eq!(backlog.begin_turn(), Some((1, 4)));
        backlog.deny(1, 5);
        backlog.end_turn(Ended::Denied);
        assert!(!backlog.has_turns());
    }

    #[test]
    fn one_that_is_saturated_waits_until_it_is_not() {
        let mut backlog = Backlog::new(10);
        backlog.want(1, 5);
        assert_eq!(backlog.begin_turn(), Some((1, 4)));
        backlog.end_turn(Ended::Saturated(4));
        backlog.want(1, 9);
        backlog.requeue(|_, _| true);
        assert!(!backlog.has_turns() && backlog.has_saturated());
        backlog.requeue(|topic, before| (topic, before) != (1, 5));
        assert_eq!(backlog.begin_turn(), Some((1, 4)));
        backlog.end_turn(Ended::Saturated(4));
        backlog.want(1, 3);
        assert!(!backlog.has_saturated(), "fewer wait there");
        assert_eq!(backlog.begin_turn(), Some((1, 2)));
    }

    #[test]
    fn one_whose_events_are_accepted_does_not_wait_for_those_that_are_refused() {
        let mut backlog = Backlog::new(10);
        for topic in 1..=5 {
            backlog.want(topic, 5);
        }
        backlog.deny(6, 9);
        backlog.answered(6, true);
        backlog.allow(6, 9);
        let mut order = Vec::new();
        for _ in 0..6 {
            let (topic, after) = backlog.begin_turn().unwrap();
            order.push(topic);
            backlog.end_turn(if topic == 6 { Ended::UsedUp(after + 1) } else { Ended::CaughtUp });
        }
        assert_eq!(order, [6, 1, 6, 2, 6, 3]);
    }

    #[test]
    fn one_for_which_there_was_no_room_comes_first() {
        let mut backlog = Backlog::new(10);
        backlog.want(1, 5);
        backlog.want(2, 6);
        assert_eq!(backlog.begin_turn(), Some((1, 4)));
        backlog.end_turn(Ended::NoRoom(4));
        assert_eq!(backlog.begin_turn(), Some((1, 4)));
        backlog.abandon();
        assert_eq!(backlog.begin_turn(), Some((2, 5)));
        backlog.end_turn(Ended::CaughtUp);
        assert_eq!(backlog.begin_turn(), Some((1, 4)), "what it read in the pass that failed does not count");
    }
}
