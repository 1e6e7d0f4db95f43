//! Topics whose events cannot all go at once, and how each gets its share of every pass.
//!
//! A pass reads new rows in ascending ids. When an event of a topic has to wait, because it was refused, or because no more of
//! its topic may be in flight, the pass does not wait for it and does not come back for it either: the topic is left *behind*.
//! From then on the reader of new rows passes over all of its rows, and the topic is read by itself, in turns: a few rows of
//! each such topic in a pass, one topic after the other. So whatever is wrong with a topic, the others do not pay for it, and
//! new rows of the others are found however many rows of this one lie before them.
//!
//! ```text
//!            leave_behind, deny                    turn ended: all its rows were seen
//!  (in good standing) ------> behind, rows wanted ------------> behind, nothing wanted
//!         ^                      ^                                 |           |
//!         |                      +------------- want --------------+           |
//!         +------------------- no lane of it is closed, nobody denied ---------+
//! ```
//!
//! Why the order of a key is kept: a topic is read by one reader at a time, in ascending ids. In each pass the reader of new
//! rows goes first, and a turn reads by the same snapshot and no further than that reader came; so a row that became visible
//! late has been passed over, and thus wanted, before a turn can meet one behind it. A topic returns to good standing when a
//! turn has come as far as that reader and no event of it has to wait.
//!
//! The rule that follows: of a topic that is behind, each event that is yet to be sent waits behind a closed lane, or lies
//! above the place that the topic is to be read from, or above where the reader of new rows came. So an event may be looked up
//! by its id, ahead of the others, only if it lies above neither ([`Backlog::reads_before`]), whatever the topic waits for.

use std::collections::{HashMap, HashSet, VecDeque};

use foldhash::fast::RandomState;

/// A topic's name, hashed by the caller. Two that collide share their turns, no more.
pub type Topic = u64;

/// How a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// All its rows have been seen, as far as the reader of new rows came.
    CaughtUp,
    /// The turn was used up. Rows behind this id are still wanted.
    UsedUp(i64),
    /// There was no room for the row behind this id.
    NoRoom(i64),
    /// So many of its events wait that the one behind this id may not join them.
    Saturated(i64),
    /// No more of the topic may be in flight, as [`Backlog::deny`] was told.
    Denied,
}

#[derive(Debug, Default)]
struct Place {
    /// Rows above this id are wanted.
    next: Option<i64>,
    denied: bool,
    saturated: bool,
    queued: bool,
}

impl Place {
    /// The row with this id is wanted. Whether that is news.
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
    turns: VecDeque<Topic>,
    saturated: HashSet<Topic, RandomState>,
    /// The turn under way.
    turn: Option<(Topic, i64)>,
}

impl Backlog {
    /// With no topic behind. `limit` bounds how many there may be before [`Backlog::is_full`].
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            topics: HashMap::default(),
            turns: VecDeque::new(),
            saturated: HashSet::default(),
            turn: None,
        }
    }

    /// Whether no topic is behind.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// Whether so many are behind that no row may be taken of a topic that could join them.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.topics.len() >= self.limit
    }

    /// Whether this topic is behind: only turns may take its rows.
    #[must_use]
    pub fn holds(&self, topic: Topic) -> bool {
        !self.topics.is_empty() && self.topics.contains_key(&topic)
    }

    /// Whether rows of the topic before this one remain to be read in turns.
    #[must_use]
    pub fn reads_before(&self, topic: Topic, id: i64) -> bool {
        let next = self.topics.get(&topic).and_then(|place| place.next);
        next.is_some_and(|after| after < id.saturating_sub(1))
    }

    /// Whether a topic could have its turn now.
    #[must_use]
    pub fn has_turns(&self) -> bool {
        !self.turns.is_empty()
    }

    /// Whether a topic waits until fewer of its events do.
    #[must_use]
    pub fn has_saturated(&self) -> bool {
        !self.saturated.is_empty()
    }

    /// How many topics could have their turn now.
    #[must_use]
    pub fn turns(&self) -> usize {
        self.turns.len()
    }

    /// An event of this topic has to wait: from now on the topic is read in turns.
    pub fn leave_behind(&mut self, topic: Topic) {
        self.topics.entry(topic).or_default();
    }

    /// The row with this id was passed over, or is to be read again.
    pub fn want(&mut self, topic: Topic, id: i64) {
        let place = self.topics.entry(topic).or_default();
        if place.go_back(id) {
            // Fewer of its events wait there.
            place.saturated = false;
            self.saturated.remove(&topic);
        }
        self.queue(topic);
    }

    /// This event was turned away because no more of its topic may be in flight: it is read again when more may.
    pub fn deny(&mut self, topic: Topic, id: i64) {
        let place = self.topics.entry(topic).or_default();
        place.denied = true;
        place.go_back(id);
    }

    /// More of the topic may be in flight, from this id on, which was turned away.
    pub fn allow(&mut self, topic: Topic, id: i64) {
        self.topics.entry(topic).or_default().denied = false;
        self.want(topic, id);
    }

    /// All rows will be passed over again, and what may be in flight was decided anew.
    pub fn allow_all(&mut self) {
        let topics: Vec<Topic> = self.topics.keys().copied().collect();
        for topic in topics {
            self.topics.entry(topic).or_default().denied = false;
            self.queue(topic);
        }
    }

    /// Topics may have their turns again of which fewer events wait by now, before the id that is given with them.
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

    /// Whose turn it is, and behind which id it begins. To be followed by [`Backlog::end_turn`].
    pub fn begin_turn(&mut self) -> Option<(Topic, i64)> {
        while let Some(topic) = self.turns.pop_front() {
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

    /// The turn is over.
    pub fn end_turn(&mut self, ended: Ended) {
        let Some((topic, _)) = self.turn.take() else { return };
        let Some(place) = self.topics.get_mut(&topic) else { return };
        let next = match ended {
            Ended::CaughtUp | Ended::Denied => None,
            Ended::UsedUp(after) | Ended::NoRoom(after) | Ended::Saturated(after) => Some(after),
        };
        // Something may have been wanted meanwhile.
        place.next = place.next.into_iter().chain(next).min();
        if matches!(ended, Ended::Saturated(_)) {
            place.saturated = true;
            self.saturated.insert(topic);
        }
        self.queue(topic);
        if matches!(ended, Ended::NoRoom(_)) && self.turns.back() == Some(&topic) {
            // Its turn comes first when there is room.
            self.turns.rotate_right(1);
        }
    }

    /// The pass failed: what the turn under way has read does not count.
    pub fn abandon(&mut self) {
        if let Some((_, after)) = self.turn {
            self.end_turn(Ended::UsedUp(after));
        }
    }

    /// The topic is in good standing again, if nothing of it is wanted, and none of its lanes is `closed`.
    pub fn let_go(&mut self, topic: Topic, closed: bool) {
        let done = |place: &Place| !(closed || place.denied || place.saturated) && place.next.is_none();
        if self.topics.get(&topic).is_some_and(done) && self.turn.is_none_or(|(current, _)| current != topic)
        {
            // Its place in the queue, should it have one, is found empty.
            self.topics.remove(&topic);
        }
    }

    /// The same for all topics.
    pub fn let_all_go(&mut self, is_closed: impl Fn(Topic) -> bool) {
        let topics: Vec<Topic> = self.topics.keys().copied().collect();
        topics.into_iter().for_each(|topic| self.let_go(topic, is_closed(topic)));
    }

    fn queue(&mut self, topic: Topic) {
        if let Some(place) = self.topics.get_mut(&topic)
            && place.next.is_some()
            && !(place.denied || place.saturated || place.queued)
        {
            place.queued = true;
            self.turns.push_back(topic);
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
        backlog.let_go(2, false);
        assert!(!backlog.holds(2));
        assert_eq!(backlog.begin_turn(), Some((1, 6)));
        backlog.end_turn(Ended::CaughtUp);
        backlog.let_go(1, true);
        assert!(backlog.holds(1), "an event of it waits");
        assert_eq!(backlog.begin_turn(), None);
        backlog.let_go(1, false);
        assert!(backlog.is_empty());
    }

    #[test]
    fn one_that_was_denied_has_its_turn_when_more_may_be_in_flight() {
        let mut backlog = Backlog::new(10);
        backlog.deny(1, 6);
        assert_eq!(backlog.begin_turn(), None);
        backlog.let_go(1, false);
        assert!(backlog.holds(1));
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
