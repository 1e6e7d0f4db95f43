//! Owns the events between the reading of their rows and their settlement. It decides which events may be sent now, which
//! must wait and for what, and which rows must be read again when an event is settled.
//!
//! It keeps four parts consistent: the window (the events in flight), the lanes (the order of each key), the ramp (how many
//! events of a topic may be in flight), and the backlog (the topics that are behind and are read in turns).

use std::collections::HashSet;
use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::RandomState;

pub use super::candidate::{By, Candidate, Settled, Verdict};
use super::lanes::{Freed, Lane, Lanes, Micros};
use super::topic_ramp::{Admission, End, Route, TopicRamp};
use super::window::{InFlightEvent, Limits, Room, Taken, Window};
use crate::reading::backlog::{Backlog, Topic};
use crate::reading::reread::Reread;

/// An event that may be sent if there is room for it. The caller must pass it to [`InFlight::admit`], [`InFlight::refuse`] or
/// [`InFlight::put_off`].
#[must_use]
#[derive(Debug)]
pub struct Offer {
    id: i64,
    topic: Topic,
    lane: Lane,
    was_refused: bool,
}

impl Offer {
    /// The lane in which the event keeps its order.
    #[must_use]
    pub fn lane(&self) -> Lane {
        self.lane
    }
}

/// The events in flight, and those that must wait.
#[derive(Debug)]
pub struct InFlight<R> {
    window: Window<R>,
    lanes: Lanes,
    ramp: TopicRamp,
    backlog: Backlog,
    hasher: RandomState,
}

impl<R> InFlight<R> {
    /// Starts with no event in flight. `max_closed` limits the closed lanes, `max_behind` the topics that are behind.
    #[must_use]
    pub fn new(max_closed: usize, max_behind: usize, in_order: bool) -> Self {
        Self {
            window: Window::default(),
            lanes: Lanes::new(max_closed),
            ramp: TopicRamp::new(in_order),
            backlog: Backlog::new(max_behind),
            hasher: RandomState::default(),
        }
    }

    /// The events in flight.
    #[must_use]
    pub fn window(&self) -> &Window<R> {
        &self.window
    }

    /// The closed lanes.
    #[must_use]
    pub fn lanes(&self) -> &Lanes {
        &self.lanes
    }

    /// The ramp: how many events of each topic may be in flight.
    #[must_use]
    pub fn ramp(&self) -> &TopicRamp {
        &self.ramp
    }

    /// The topics that are behind.
    #[must_use]
    pub fn backlog(&self) -> &Backlog {
        &self.backlog
    }

    /// The entry of the event with this id, if it is in flight.
    #[must_use]
    pub fn get(&self, id: i64) -> Option<&InFlightEvent<R>> {
        self.window.get(id)
    }

    /// The room that is left.
    #[must_use]
    pub fn room(&self, limits: Limits) -> Room {
        self.window.room(limits)
    }

    /// The number of a topic.
    #[must_use]
    pub fn topic(&self, name: &str) -> Topic {
        self.hasher.hash_one(name)
    }

    /// The lane of a topic and key. If two share a number, the only effect is that they wait for each other.
    #[must_use]
    pub fn lane(&self, topic: &str, key: &[u8]) -> u64 {
        self.hasher.hash_one((topic, key))
    }

    /// Checks whether other events of its key and topic allow the event of a row to be sent. The event must not be in flight.
    /// `lane` is called only if the lane matters.
    ///
    /// # Errors
    /// The event may not be sent; the verdict says how the reader continues.
    pub fn offer(
        &mut self,
        row: Candidate,
        by: By,
        now: Micros,
        lane: impl FnOnce(&Self) -> Lane,
    ) -> Result<Offer, Verdict> {
        let Candidate { id, topic, not_before, is_known } = row;
        if by == By::New && self.backlog.is_behind(topic) {
            self.backlog.want(topic, id);
            return Err(Verdict::Next);
        }
        if by == By::New && self.backlog.is_full() && !is_known {
            return Err(Verdict::NoRoom);
        }
        let lane = lane(self);
        if let By::Turn(_) = by
            && self.lanes.is_open(lane, id)
            && self.lanes.is_saturated(topic, id)
        {
            return Err(Verdict::Saturated);
        }
        if not_before.is_some() {
            self.backlog.mark_behind(topic);
        }
        if !self.lanes.try_admit(topic, lane, id, not_before, now) {
            return Err(Verdict::Next);
        }
        Ok(Offer { id, topic, lane, was_refused: not_before.is_some() })
    }

    /// There is no room for the event. If it keeps its lane closed, its topic's turn will read it again.
    pub fn put_off(&mut self, Offer { id, topic, lane, .. }: Offer) -> Verdict {
        self.await_turn(topic, lane, id);
        Verdict::NoRoom
    }

    /// Refuses the event without sending it. The refusal is settled later.
    pub fn refuse(&mut self, Offer { id, topic, lane, .. }: Offer) {
        self.backlog.mark_behind(topic);
        self.lanes.hold_back(topic, lane, id);
    }

    /// Takes the event if more events of its topic may be in flight, and returns how to send it.
    ///
    /// # Errors
    /// The event may not be sent; the verdict says how the reader continues.
    pub fn admit(
        &mut self,
        offer: Offer,
        name: &Arc<str>,
        taken: &mut Taken<R>,
    ) -> Result<Admission, Verdict> {
        let Offer { id, lane, was_refused, .. } = offer;
        let Some(mut admission) = self.ramp.try_admit(name, id, lane) else {
            return Err(self.deny(offer, !self.ramp.takes_more(name)));
        };
        if was_refused && !taken.is_on_its_way(lane, &self.window) {
            // An event that was refused is likely to be refused again.
            admission.route = Route::Quarantine;
        }
        Ok(admission)
    }

    /// Takes an event that is delivered at most once. Nothing of it comes back, so that no group has to be settled before
    /// others may go. A topic of which nothing is heard is an exception: its events must not fill the window.
    ///
    /// # Errors
    /// The event may not be sent; the verdict says how the reader continues.
    pub fn admit_once(&mut self, offer: Offer, name: &Arc<str>) -> Result<Admission, Verdict> {
        let Offer { id, lane, .. } = offer;
        if self.ramp.is_quarantined(name) && self.ramp.try_admit(name, id, lane).is_none() {
            return Err(self.deny(offer, !self.ramp.takes_more(name)));
        }
        Ok(Admission { route: Route::Once, sole_in_flight: false })
    }

    /// No event of the topic may be sent before [`allow_all`](Self::allow_all).
    pub fn deny_all(&mut self, offer: Offer) -> Verdict {
        self.deny(offer, true)
    }

    /// Events of topics that were denied may be sent.
    pub fn allow_all(&mut self) -> Reread {
        self.backlog.allow_all();
        Reread::Turns
    }

    fn deny(&mut self, Offer { id, topic, lane, .. }: Offer, for_all: bool) -> Verdict {
        self.backlog.deny(topic, id);
        self.await_turn(topic, lane, id);
        Verdict::Denied { for_all }
    }

    /// An event of a row that was read must wait: the row has the id of another event that is in flight, because the sequence
    /// was set back, or it cannot be deleted now.
    pub fn rest(&mut self, topic: Topic, lane: Lane, id: i64, until: Micros) {
        self.backlog.mark_behind(topic);
        self.lanes.block(topic, lane, id, until);
    }

    /// The taken events were handed to the producer.
    pub fn hand_over(&mut self, taken: Taken<R>) {
        taken.into_events().for_each(|entry| self.window.add(entry));
    }

    /// The taken events are not sent after all.
    pub fn withdraw(&mut self, taken: &Taken<R>) -> Reread {
        for InFlightEvent { id, topic, lane, is_open, .. } in taken.events() {
            let of = self.topic(topic);
            self.await_turn(of, *lane, *id);
            if *is_open {
                self.withdraw_one(topic, *lane);
            }
            if self.backlog.is_behind(of) {
                self.backlog.allow(of, *id);
            }
        }
        taken.events().iter().map(|entry| entry.id).min().map_or(Reread::Nothing, Reread::From)
    }

    /// An admitted event is not taken: it must be read again.
    pub fn withdraw_one(&mut self, topic: &Arc<str>, lane: Lane) {
        if let Some(turned_away) = self.ramp.withdraw(topic, lane) {
            self.backlog.allow(self.hasher.hash_one(&**topic), turned_away);
        }
    }

    /// An event is no longer in flight.
    pub fn settled(&mut self, id: i64, what: Settled) -> Reread {
        let end = match what {
            Settled::Delivered | Settled::GivenUp | Settled::Returned(_) => End::Well,
            Settled::GivenBack => End::Untried,
            Settled::Dead | Settled::RetryAt(_) => End::Refused,
            Settled::Suspect(_) => End::Suspect,
        };
        let Some(InFlightEvent { topic: name, lane, is_open, .. }) = self.window.remove(id) else {
            return Reread::Nothing;
        };
        let topic = self.topic(&name);
        match what {
            Settled::Delivered => self.backlog.answered(topic, true),
            Settled::Dead | Settled::RetryAt(_) | Settled::Suspect(_) => self.backlog.answered(topic, false),
            Settled::GivenUp | Settled::Returned(_) | Settled::GivenBack => {}
        }
        let more = if is_open { self.end(&name, end) } else { Reread::Nothing };
        if !self.backlog.is_empty() {
            self.backlog.remove_if_caught_up(topic, self.lanes.has_closed(topic));
        }
        let again = match what {
            Settled::Delivered | Settled::Dead | Settled::GivenUp => {
                let freed = self.lanes.release(lane, id);
                self.freed(freed)
            }
            Settled::RetryAt(until) | Settled::Returned(until) | Settled::Suspect(until) => {
                self.backlog.mark_behind(topic);
                self.lanes.block(topic, lane, id, until);
                Reread::Nothing
            }
            Settled::GivenBack => {
                self.await_turn(topic, lane, id);
                Reread::From(id)
            }
        };
        let saturated = if self.backlog.has_saturated() { Reread::Turns } else { Reread::Nothing };
        more.and(again).and(saturated)
    }

    /// The broker has answered for an event whose row cannot be settled. If it was refused, later events of its lane wait.
    pub fn answered(&mut self, id: i64, refused: bool) -> Reread {
        if refused && let Some(InFlightEvent { topic, lane, .. }) = self.window.get(id) {
            let (topic, lane) = (self.topic(topic), *lane);
            self.backlog.mark_behind(topic);
            self.lanes.hold_back(topic, lane, id);
        }
        let end = if refused { End::Refused } else { End::Well };
        self.window.answered(id).map_or(Reread::Nothing, |topic| self.end(&topic, end))
    }

    /// The event itself is no longer in memory, only its entry.
    pub fn lighten(&mut self, id: i64) {
        self.window.lighten(id);
    }

    /// Quarantines this topic: from now on its events take the quarantine route, in small groups.
    pub fn quarantine(&mut self, topic: &Arc<str>) {
        self.ramp.quarantine(topic, self.window.count_open(topic));
    }

    /// The producer is replaced. The outcome of the events in flight is unknown, except for those in `kept`: the others are
    /// read and sent again.
    pub fn producer_lost(&mut self, kept: &HashSet<i64>, in_order: bool) -> Reread {
        self.window.keep_only(kept);
        self.recheck();
        self.ramp.renew(in_order);
        self.backlog.allow_all();
        self.backlog.remove_all_caught_up(|topic| self.lanes.has_closed(topic));
        Reread::From(0)
    }

    /// Ends the waits that are over. Returns whether any event is due.
    pub fn due(&mut self, now: Micros) -> bool {
        self.lanes.due(now)
    }

    /// Ends all waits, so that the rows' own retry times are read again.
    pub fn end_waits(&mut self) {
        self.lanes.end_waits();
    }

    /// Looks up the events that were let through and are not in flight.
    pub fn recheck(&mut self) {
        self.lanes.recheck(|id| self.window.get(id).is_some());
    }

    /// The waiting events, for the readers of rows that are not new.
    pub(crate) fn waiting(&mut self) -> (&mut Lanes, &mut Backlog) {
        (&mut self.lanes, &mut self.backlog)
    }

    /// A lane was opened: the events that were turned away there must be read again.
    pub(crate) fn freed(&mut self, freed: Option<Freed>) -> Reread {
        let Some(Freed { topic, behind }) = freed else { return Reread::Nothing };
        match behind {
            Some(id) => self.backlog.want(topic, id),
            None => self.backlog.remove_if_caught_up(topic, self.lanes.has_closed(topic)),
        }
        Reread::Turns
    }

    /// An event of this topic has ended, so the topic's next group may be due.
    fn end(&mut self, topic: &Arc<str>, end: End) -> Reread {
        match self.ramp.settled(topic, end) {
            Some(turned_away) => {
                self.backlog.allow(self.topic(topic), turned_away);
                Reread::Turns
            }
            None => Reread::Nothing,
        }
    }

    /// An event that was let through is not in flight after all. If it keeps its lane closed, its topic's turn will read it
    /// again.
    fn await_turn(&mut self, topic: Topic, lane: Lane, id: i64) {
        if self.lanes.put_off(lane, id) {
            self.backlog.want(topic, id);
        }
    }
}

#[cfg(test)]
mod tests;
