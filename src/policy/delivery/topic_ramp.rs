//! How much of a topic may be on its way to the broker at once, and through which producer.
//!
//! A broker's verdict on size or validity is one on a batch: all its events come back with the same
//! error, and only one may be to blame. What follows such a batch in its partition must not come before its
//! innocent events. So the common producer stops at the first gap (`enable.gapless.guarantee`), the broker
//! refuses what it had sent behind it, for the gap in the sequence, and a new producer sends all in order.
//! Two things are left to do here:
//!
//! - A topic whose batch was refused goes on through the producer apart, which does not stop, in small
//!   groups, each sent when the one before is settled: one event at first, twice as many after each group
//!   that went well, half as many after one that did not. Only an event that was refused in a group of its own
//!   is charged with it. What the broker takes in smaller batches only, since its limit is one of
//!   batches, gets through in the same way. A topic that was here before stays longer.
//! - A broker knows no sequence in a partition before it has taken a first batch from a producer: should it
//!   refuse that one, it would take what follows. So each topic starts in groups that grow fast, too.
//!
//! A group may be sent in several batches, of which a later one may be taken and an earlier one refused; so no two
//! events of a topic and key are in the same group.
//!
//! A topic of which nothing comes back can be handled with caution as well: then no more of it is sent until
//! what is in flight has come back.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::lanes::Lane;

/// A group so large is no caution any more.
const FULL_SPEED: usize = 16_384;

/// By how much groups grow that are sent with ramp.
const GROWTH: usize = 2;

/// How many groups of a topic must go well in a row, before it is trusted again; twice as many for each time that it was
/// before, up to a limit.
const CLEAN_GROUPS: u32 = FULL_SPEED.ilog2();
const MAX_STRIKES: u32 = 6;

/// When groups have grown to this, a new producer is known to the partitions of a topic that see traffic.
const WARM: usize = 1_024;

/// By how much groups grow while a new producer gets known.
const START_GROWTH: usize = 4;

/// The producer through which an event goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// That of nearly all events. It stops at the first gap in a sequence.
    Gapless,
    /// For what may be refused: it goes on.
    Quarantine,
}

/// An event may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    /// Through this producer.
    pub route: Route,
    /// It is the only one of its topic in flight, so that a refusal is its own.
    pub sole_in_flight: bool,
}

/// How an event in flight ended, from the best to the worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// It was published, or it came back for no fault of its own.
    Well,
    /// It was refused itself.
    Refused,
    /// A batch was refused, maybe for another.
    Suspect,
}

/// How each topic is handled.
#[derive(Debug, Default)]
pub struct TopicRamp {
    /// Whether order matters, so that topics begin in groups.
    in_order: bool,
    topics: HashMap<Arc<str>, Standing, RandomState>,
    /// Topics that go through the producer apart.
    apart: usize,
}

#[derive(Debug)]
enum Standing {
    /// As much as there is; and how often the topic was handled with ramp.
    Open { strikes: u32 },
    /// In groups.
    Ramping(Group),
}

impl Standing {
    fn strikes(&self) -> u32 {
        match self {
            Self::Open { strikes } | Self::Ramping(Group { strikes, .. }) => *strikes,
        }
    }

    /// Whether a topic that has nothing in flight differs from one never heard of.
    fn is_worth_keeping(&self) -> bool {
        self.strikes() > 0 || matches!(self, Self::Ramping(Group { route: Route::Quarantine, .. }))
    }
}

#[derive(Debug)]
struct Group {
    route: Route,
    /// The most events sent together.
    most: usize,
    /// Events sent in this group.
    sent: usize,
    /// Events of the topic in flight, of this group or from before it.
    in_flight: usize,
    /// The worst that became of one of the group.
    worst: End,
    /// Groups in a row that went well.
    clean_groups: u32,
    /// How often the topic was handled with caution before.
    strikes: u32,
    /// Those that have an event in this group.
    lanes: HashSet<u64, RandomState>,
    /// The lowest id that was turned away meanwhile.
    turned_away: Option<i64>,
}

impl Group {
    fn new(route: Route, in_flight: usize, strikes: u32) -> Self {
        Self {
            route,
            most: 1,
            sent: 0,
            in_flight,
            worst: End::Well,
            clean_groups: 0,
            strikes,
            lanes: HashSet::default(),
            turned_away: None,
        }
    }

    /// Whether an event may join the group, and how it is sent then. Asked in ascending ids.
    fn try_admit(&mut self, id: i64, lane: Lane) -> Option<Admission> {
        if self.has_room() && lane.is_none_or(|lane| self.lanes.insert(lane)) {
            self.sent += 1;
            self.in_flight += 1;
            return Some(Admission { route: self.route, sole_in_flight: self.most == 1 });
        }
        self.turned_away = Some(self.turned_away.map_or(id, |lowest| lowest.min(id)));
        None
    }

    /// What was in flight from before the group must be settled first, or it might share its batch.
    fn has_room(&self) -> bool {
        self.sent < self.most && self.in_flight == self.sent
    }

    /// All of the group came back: how large the next one may be. Gives whether that is no caution any more.
    fn next(&mut self) -> bool {
        let (growth, most) = match self.route {
            Route::Gapless => (START_GROWTH, WARM),
            Route::Quarantine => (GROWTH, FULL_SPEED),
        };
        if self.sent > 0 {
            self.clean_groups = if self.worst == End::Well { self.clean_groups + 1 } else { 0 };
            self.most = match self.worst {
                End::Suspect => (self.sent / 2).max(1),
                End::Refused | End::Well => (self.most * growth).min(most),
            };
        }
        (self.sent, self.worst) = (0, End::Well);
        self.lanes.clear();
        let clean_groups = match self.route {
            Route::Gapless => 1,
            Route::Quarantine => CLEAN_GROUPS << self.strikes.min(MAX_STRIKES),
        };
        self.most >= most && self.clean_groups >= clean_groups
    }
}

impl TopicRamp {
    /// For a new producer. `in_order`: whether order matters.
    #[must_use]
    pub fn new(in_order: bool) -> Self {
        Self { in_order, ..Self::default() }
    }

    /// The producer was replaced, and all that was in flight is to be read again. What was handled with
    /// caution still is; the others are new to this producer. `in_order`: whether that matters.
    pub fn renew(&mut self, in_order: bool) {
        self.in_order = in_order;
        for standing in self.topics.values_mut() {
            let group = match standing {
                Standing::Ramping(group) if group.route == Route::Quarantine => {
                    Group { most: group.most, ..Group::new(Route::Quarantine, 0, group.strikes) }
                }
                Standing::Ramping(Group { strikes, .. }) | Standing::Open { strikes } => {
                    Group::new(Route::Gapless, 0, *strikes)
                }
            };
            *standing = Standing::Ramping(group);
        }
        self.topics.retain(|_, standing| standing.is_worth_keeping());
    }

    /// Whether no topic is handled with ramp.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.apart == 0
    }

    /// Whether a topic is handled with ramp.
    #[must_use]
    pub fn holds(&self, topic: &str) -> bool {
        matches!(self.topics.get(topic), Some(Standing::Ramping(Group { route: Route::Quarantine, .. })))
    }

    /// From now on this topic is handled with caution, while so many of its events are still in flight.
    /// Gives nothing new to one that is already.
    pub fn begin(&mut self, topic: &Arc<str>, in_flight: usize) {
        if self.holds(topic) {
            return;
        }
        let before = self.topics.get(topic);
        let mut group = Group::new(Route::Quarantine, in_flight, before.map_or(0, Standing::strikes));
        if let Some(Standing::Ramping(before)) = before {
            group.turned_away = before.turned_away;
        }
        self.topics.insert(topic.clone(), Standing::Ramping(group));
        self.apart += 1;
    }

    /// Whether an event may be sent now, and how; then it counts as in flight. Asked in ascending ids.
    pub fn try_admit(&mut self, topic: &Arc<str>, id: i64, lane: Lane) -> Option<Admission> {
        match self.topics.get_mut(topic) {
            Some(Standing::Ramping(group)) if self.in_order || group.route == Route::Quarantine => {
                group.try_admit(id, lane)
            }
            None if self.in_order => {
                let mut group = Group::new(Route::Gapless, 0, 0);
                let admission = group.try_admit(id, lane);
                self.topics.insert(topic.clone(), Standing::Ramping(group));
                admission
            }
            _ => Some(Admission { route: Route::Gapless, sole_in_flight: false }),
        }
    }

    /// Whether an event of this topic could be sent now, if it were of the right key.
    #[must_use]
    pub fn takes_more(&self, topic: &str) -> bool {
        match self.topics.get(topic) {
            Some(Standing::Ramping(group)) if self.in_order || group.route == Route::Quarantine => {
                group.has_room()
            }
            _ => true,
        }
    }

    /// An event that was admitted has not been sent after all: it is to be read again, with those that were turned away
    /// meanwhile. Gives the lowest id of these.
    pub fn withdraw(&mut self, topic: &Arc<str>, lane: Lane) -> Option<i64> {
        let Some(Standing::Ramping(group)) = self.topics.get_mut(topic) else { return None };
        group.sent = group.sent.saturating_sub(1);
        group.in_flight = group.in_flight.saturating_sub(1);
        lane.map(|lane| group.lanes.remove(&lane));
        let turned_away = group.turned_away.take();
        if group.in_flight == 0 {
            self.end_group(topic, turned_away.is_none());
        }
        turned_away
    }

    /// An event of this topic is no longer in flight. Gives the lowest id that was turned away, if it is time
    /// to read it again.
    pub fn settled(&mut self, topic: &Arc<str>, end: End) -> Option<i64> {
        let Some(Standing::Ramping(group)) = self.topics.get_mut(topic) else { return None };
        group.in_flight = group.in_flight.saturating_sub(1);
        if group.sent > 0 {
            group.worst = group.worst.max(end);
        }
        if group.in_flight > 0 {
            return None;
        }
        let turned_away = group.turned_away.take();
        self.end_group(topic, turned_away.is_none());
        turned_away
    }

    /// Nothing of the topic is in flight any more; `is_all` if nothing of it was turned away either.
    fn end_group(&mut self, topic: &Arc<str>, is_all: bool) {
        let Some(Standing::Ramping(group)) = self.topics.get_mut(topic) else { return };
        let (route, strikes, went_well) = (group.route, group.strikes, group.worst == End::Well);
        match (route, group.next()) {
            (Route::Gapless, true) => {
                self.topics.insert(topic.clone(), Standing::Open { strikes });
            }
            // A name that no topic has leaves nothing behind, when it has no more events.
            (Route::Gapless, false) if !went_well && strikes == 0 && is_all => {
                self.topics.remove(topic);
            }
            (Route::Quarantine, true) => {
                let start = Group::new(Route::Gapless, 0, strikes + 1);
                self.topics.insert(topic.clone(), Standing::Ramping(start));
                self.apart -= 1;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
