//! Decides how many events of a topic may be in flight, and through which producer they go.
//!
//! A broker judges size and validity of a whole batch: all its events come back with the same error, although only one may
//! be at fault. Events that follow such a batch in its partition must not overtake its good events. So the gapless producer
//! stops at the first gap (`enable.gapless.guarantee`), the broker refuses the batches that were sent after it because of
//! the gap in the sequence, and a new producer sends all events in order. Two tasks remain for this module:
//!
//! - A topic whose batch was refused is quarantined. It continues through the quarantine producer, which does not stop, in
//!   small groups. Each group is sent when the one before is settled: one event at first, twice as many after a group
//!   without a refusal, half as many after a refused batch; if the larger size fails again, it is tried later. A refusal counts against an event only if the event was alone
//!   in its group. Events that the broker accepts only in smaller batches, because its limit applies to batches, get
//!   through in the same way. A topic that was quarantined before stays longer.
//! - A broker knows no sequence in a partition before it has accepted a first batch from a producer. If it refuses this
//!   batch, it accepts those that follow. So each topic starts in groups, too, but these grow fast.
//!
//! A group may be sent in several batches, and the broker may accept a later one and refuse an earlier one. So no two events
//! of a topic and key are in the same group, unless it is a part of a transaction: with a refused event nothing of that is
//! published.
//!
//! A topic without delivery reports can be quarantined as well: then no more of its events are sent until those in flight
//! have come back.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::lanes::Lane;

/// The group size at which a topic counts as recovered.
const FULL_SPEED: usize = 16_384;

/// The factor by which the groups of a quarantined topic grow.
const GROWTH: usize = 2;

/// How many groups in a row must go without a refusal before a topic leaves quarantine. The number doubles with each time
/// that the topic was quarantined before, up to a limit.
const CLEAN_GROUPS: u32 = FULL_SPEED.ilog2();
const MAX_STRIKES: u32 = 6;

/// The largest number of groups of a size before the next size is tried again.
const MOST_HESITATION: u32 = 64;

/// The group size at which all partitions of a topic that get events have accepted a batch from a new producer.
const WARM: usize = 1_024;

/// The factor by which the groups of a topic grow with a new producer.
const START_GROWTH: usize = 4;

/// The producer that sends an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// The producer of nearly all events. It stops at the first gap in a sequence.
    Gapless,
    /// The producer of events that may be refused. It continues after a refusal.
    Quarantine,
    /// The producer of events that are delivered at most once. It repeats nothing.
    Once,
}

impl Route {
    /// All routes, each at its number.
    pub const ALL: [Self; 3] = [Self::Gapless, Self::Quarantine, Self::Once];
}

/// How an event may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    /// The producer that sends it.
    pub route: Route,
    /// It is the only one of its topic in flight, so a refusal can only mean this event.
    pub sole_in_flight: bool,
}

/// How an event in flight ended, from the best to the worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// It was published, or it came back through no fault of its own.
    Well,
    /// It was given back without an answer, because another event's refusal ended its transaction.
    Untried,
    /// It was refused itself.
    Refused,
    /// Its batch was refused, perhaps because of another event.
    Suspect,
}

/// The state of each topic.
#[derive(Debug, Default)]
pub struct TopicRamp {
    /// Whether groups have to keep order: it matters, and no transaction keeps it. If so, topics start in groups.
    in_order: bool,
    topics: HashMap<Arc<str>, Standing, RandomState>,
    /// The number of quarantined topics.
    quarantined: usize,
}

#[derive(Debug)]
enum Standing {
    /// All its events may be in flight. `strikes` counts how often the topic was quarantined.
    Open { strikes: u32 },
    /// Its events are sent in groups.
    Ramping(Group),
}

impl Standing {
    fn strikes(&self) -> u32 {
        match self {
            Self::Open { strikes } | Self::Ramping(Group { strikes, .. }) => *strikes,
        }
    }

    /// Whether a topic with no event in flight differs from an unknown one.
    fn is_worth_keeping(&self) -> bool {
        self.strikes() > 0 || matches!(self, Self::Ramping(Group { route: Route::Quarantine, .. }))
    }
}

#[derive(Debug)]
struct Group {
    route: Route,
    /// The largest allowed size of the group.
    most: usize,
    /// The number of events sent in this group.
    sent: usize,
    /// The number of the topic's events in flight, of this group or from before it.
    in_flight: usize,
    /// The worst outcome in the group.
    worst: End,
    /// The number of groups in a row without a refusal.
    clean_groups: u32,
    /// How many groups of the present size must go well before the next size is tried, and how many did.
    hesitation: u32,
    went_well: u32,
    /// The number of events in the last group that was refused after smaller ones had gone well.
    failed_at: usize,
    /// How often the topic was quarantined before.
    strikes: u32,
    /// The lanes that have an event in this group.
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
            hesitation: 1,
            went_well: 0,
            failed_at: 0,
            strikes,
            lanes: HashSet::default(),
            turned_away: None,
        }
    }

    /// Adds an event to the group if it may join, and returns how to send it. Call it in ascending order of ids.
    fn try_admit(&mut self, id: i64, lane: Lane) -> Option<Admission> {
        if self.has_room() && lane.is_none_or(|lane| self.lanes.insert(lane)) {
            self.sent += 1;
            self.in_flight += 1;
            return Some(Admission { route: self.route, sole_in_flight: self.most == 1 });
        }
        self.turned_away = Some(self.turned_away.map_or(id, |lowest| lowest.min(id)));
        None
    }

    /// Whether the group has room. Events in flight from before the group must be settled first, or they might share a
    /// batch with it.
    fn has_room(&self) -> bool {
        self.sent < self.most && self.in_flight == self.sent
    }

    fn went_well(&mut self, growth: usize, most: usize) {
        self.clean_groups += 1;
        self.went_well += 1;
        if self.sent >= self.failed_at {
            self.hesitation = 1;
        }
        if self.went_well >= self.hesitation {
            self.went_well = 0;
            self.most = (self.most * growth).min(most);
        }
    }

    /// The event at fault may be far behind the others, of a key that has nothing before it. Then only groups with an event of
    /// each key have it, and smaller ones go well until all before it are through. A refusal costs much more than a group in a
    /// transaction, so the larger size is tried ever more rarely.
    fn was_suspect(&mut self) {
        if self.clean_groups > 0 {
            self.hesitation = (self.hesitation * 2).min(MOST_HESITATION);
            self.failed_at = self.sent;
        }
        (self.clean_groups, self.went_well) = (0, 0);
        self.most = (self.sent / 2).max(1);
    }

    /// Starts the next group once all events of this one are settled, and sets its size. Returns whether the topic needs no
    /// groups any more.
    fn next_group(&mut self) -> bool {
        let (growth, most) = match self.route {
            Route::Gapless => (START_GROWTH, WARM),
            Route::Quarantine | Route::Once => (GROWTH, FULL_SPEED),
        };
        if self.sent > 0 {
            match self.worst {
                End::Well => self.went_well(growth, most),
                // It says nothing of this topic. If its groups grew all the same, two topics that are refused in turn would
                // never come down to one event.
                End::Untried => {}
                End::Refused => {
                    (self.clean_groups, self.went_well, self.hesitation) = (0, 0, 1);
                    self.most = (self.most * growth).min(most);
                }
                End::Suspect => self.was_suspect(),
            }
        }
        (self.sent, self.worst) = (0, End::Well);
        self.lanes.clear();
        let clean_groups = match self.route {
            Route::Gapless => 1,
            Route::Quarantine | Route::Once => CLEAN_GROUPS << self.strikes.min(MAX_STRIKES),
        };
        self.most >= most && self.clean_groups >= clean_groups
    }
}

impl TopicRamp {
    /// The state for a new producer. `in_order` says whether groups have to keep order.
    #[must_use]
    pub fn new(in_order: bool) -> Self {
        Self { in_order, ..Self::default() }
    }

    /// The producer was replaced, and all events in flight will be read again. Quarantined topics stay quarantined. The
    /// others start in groups again, since they are new to this producer. `in_order` says whether groups have to keep order.
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

    /// Whether no topic is quarantined.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.quarantined == 0
    }

    /// Whether a topic is quarantined.
    #[must_use]
    pub fn is_quarantined(&self, topic: &str) -> bool {
        matches!(self.topics.get(topic), Some(Standing::Ramping(Group { route: Route::Quarantine, .. })))
    }

    /// Quarantines a topic that still has `in_flight` events in flight. No effect if the topic is already quarantined.
    pub fn quarantine(&mut self, topic: &Arc<str>, in_flight: usize) {
        if self.is_quarantined(topic) {
            return;
        }
        let before = self.topics.get(topic);
        let mut group = Group::new(Route::Quarantine, in_flight, before.map_or(0, Standing::strikes));
        if let Some(Standing::Ramping(before)) = before {
            group.turned_away = before.turned_away;
        }
        self.topics.insert(topic.clone(), Standing::Ramping(group));
        self.quarantined += 1;
    }

    /// Counts an event as in flight if it may be sent now, and returns how to send it. Call it in ascending order of ids.
    pub fn try_admit(&mut self, topic: &Arc<str>, id: i64, lane: Lane) -> Option<Admission> {
        let lane = lane.filter(|_| self.in_order);
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

    /// Whether an event of this topic with a suitable key could be sent now.
    #[must_use]
    pub fn takes_more(&self, topic: &str) -> bool {
        match self.topics.get(topic) {
            Some(Standing::Ramping(group)) if self.in_order || group.route == Route::Quarantine => {
                group.has_room()
            }
            _ => true,
        }
    }

    /// An admitted event was not sent after all. It must be read again, and so must those that were turned away meanwhile:
    /// returns the lowest id of these.
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

    /// An event of this topic is no longer in flight. Returns the lowest id that was turned away, if it must be read again
    /// now.
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

    /// No event of the topic is in flight any more. `is_all` says that none was turned away either.
    fn end_group(&mut self, topic: &Arc<str>, is_all: bool) {
        let Some(Standing::Ramping(group)) = self.topics.get_mut(topic) else { return };
        let (route, strikes, went_well) = (group.route, group.strikes, group.worst <= End::Untried);
        match (route, group.next_group()) {
            (Route::Gapless, true) => {
                self.topics.insert(topic.clone(), Standing::Open { strikes });
            }
            // Forget a topic that does not exist once it has no more events.
            (Route::Gapless, false) if !went_well && strikes == 0 && is_all => {
                self.topics.remove(topic);
            }
            (Route::Quarantine, true) => {
                let start = Group::new(Route::Gapless, 0, strikes + 1);
                self.topics.insert(topic.clone(), Standing::Ramping(start));
                self.quarantined -= 1;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
