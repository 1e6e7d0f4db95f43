//! What is in flight: handed to Kafka, and not yet settled.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::id_ring::IdRing;
use super::lanes::Lane;

/// How much may be in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Events.
    pub events: usize,
    /// Bytes of memory, by `Event::weight`.
    pub bytes: usize,
}

/// An event in flight, as far as it is needed to settle it. `R` tells its row again from one that is put in its place.
#[derive(Debug)]
pub struct Ticket<R> {
    /// The event.
    pub id: i64,
    /// Its row.
    pub row: R,
    /// Its topic.
    pub topic: Arc<str>,
    /// When it was emitted, in microseconds since 1970.
    pub emitted_at: i64,
    /// The time that its record tells, in the same way.
    pub record_time: i64,
    /// With whom it keeps order.
    pub lane: Lane,
    /// Whether it was sent without others of its topic, so that a refusal is its own.
    pub sole_in_flight: bool,
    /// Whether nothing is known yet of what the broker made of it.
    pub is_open: bool,
    /// When it was handed over, among all: set when it is added to the window.
    pub place: u64,
    /// What the event weighs in memory, in bytes.
    pub weight: usize,
}

/// The events in flight by id, bounded in number and in bytes.
#[derive(Debug)]
pub struct Window<R> {
    tickets: IdRing<Ticket<R>>,
    bytes: usize,
    /// Events handed over so far.
    handed_over: u64,
}

impl<R> Default for Window<R> {
    fn default() -> Self {
        Self { tickets: IdRing::default(), bytes: 0, handed_over: 0 }
    }
}

impl<R> Window<R> {
    /// The ticket of the event with this id, if it is in flight.
    #[must_use]
    pub fn ticket(&self, id: i64) -> Option<&Ticket<R>> {
        self.tickets.get(id)
    }

    /// The broker has answered for this event, though it is not settled yet. Gives its topic, if that is news.
    pub fn answered(&mut self, id: i64) -> Option<Arc<str>> {
        let ticket = self.tickets.get_mut(id)?;
        std::mem::take(&mut ticket.is_open).then(|| ticket.topic.clone())
    }

    /// The event itself is no longer in memory, only what is known of it.
    pub fn lighten(&mut self, id: i64) {
        if let Some(ticket) = self.tickets.get_mut(id) {
            self.bytes -= std::mem::take(&mut ticket.weight);
        }
    }

    /// Of how many events of a topic nothing is known yet. Looks at each in flight: for rare occasions.
    #[must_use]
    pub fn count_open(&self, topic: &str) -> usize {
        self.tickets.values().filter(|ticket| ticket.is_open && *ticket.topic == *topic).count()
    }

    /// Takes in an event that was handed over.
    pub fn add(&mut self, mut ticket: Ticket<R>) {
        self.handed_over += 1;
        ticket.place = self.handed_over;
        self.bytes += ticket.weight;
        if let Some(before) = self.tickets.insert(ticket.id, ticket) {
            self.bytes -= before.weight;
        }
    }

    /// Lets go of an event that is settled.
    pub fn remove(&mut self, id: i64) -> Option<Ticket<R>> {
        let ticket = self.tickets.remove(id)?;
        self.bytes -= ticket.weight;
        Some(ticket)
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Ticket<R>> {
        self.tickets.values()
    }

    /// Lets go of all but these.
    pub fn keep_only(&mut self, ids: &HashSet<i64>) {
        self.tickets.retain(|id| ids.contains(&id));
        self.bytes = self.tickets.values().map(|ticket| ticket.weight).sum();
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tickets.len()
    }

    /// The one with the lowest id.
    #[must_use]
    pub fn oldest(&self) -> Option<&Ticket<R>> {
        self.tickets.first()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tickets.is_empty()
    }

    /// Room for more.
    #[must_use]
    pub fn room(&self, limits: Limits) -> Room {
        Room {
            events: limits.events.saturating_sub(self.len()),
            bytes: limits.bytes.saturating_sub(self.bytes),
            empty: self.is_empty(),
            reserved: (0, 0),
        }
    }

    /// Whether there is so much room that reading the table for more is worth it: this share of all (a
    /// fourth, a tenth …), lest each acknowledgement cost a read of its own.
    #[must_use]
    pub fn is_worth_filling(&self, limits: Limits, share: usize) -> bool {
        let room = self.room(limits);
        self.is_empty()
            || (room.events >= limits.events.div_ceil(share) && room.bytes >= limits.bytes / share)
    }

    /// The lanes of all events in flight, each as often as it has events.
    pub fn lanes(&self) -> impl Iterator<Item = u64> {
        self.tickets.values().filter_map(|ticket| ticket.lane)
    }

    /// Of each topic the place of the event that was handed over first, of those that nothing is known of. Looks at each
    /// event: for rare occasions.
    #[must_use]
    pub fn first_places(&self) -> HashMap<Arc<str>, u64> {
        let mut first: HashMap<Arc<str>, u64> = HashMap::new();
        for ticket in self.tickets.values().filter(|ticket| ticket.is_open) {
            match first.get_mut(&ticket.topic) {
                Some(place) => *place = ticket.place.min(*place),
                None => {
                    first.insert(ticket.topic.clone(), ticket.place);
                }
            }
        }
        first
    }

    /// The topics of all events in flight, each as often as it has events.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<str>> {
        self.tickets.values().map(|ticket| &ticket.topic)
    }
}

/// What a pass has taken and is not in flight yet.
#[derive(Debug)]
pub struct Taken<R> {
    tickets: Vec<Ticket<R>>,
    /// The lanes of what was in flight when it was first asked.
    in_flight: Option<HashSet<u64>>,
    /// The ids of the tickets, once somebody else than the reader of new rows reads.
    ids: Option<HashSet<i64>>,
}

impl<R> Taken<R> {
    /// Of nothing, with room for so many events.
    #[must_use]
    pub fn with_capacity(events: usize) -> Self {
        Self { tickets: Vec::with_capacity(events), in_flight: None, ids: None }
    }

    /// The events.
    #[must_use]
    pub fn tickets(&self) -> &[Ticket<R>] {
        &self.tickets
    }

    /// The events, to be kept elsewhere.
    pub(super) fn into_tickets(self) -> impl Iterator<Item = Ticket<R>> {
        self.tickets.into_iter()
    }

    /// From now on rows come in any order, and maybe twice.
    pub fn remember_ids(&mut self) {
        self.ids = Some(self.tickets.iter().map(|ticket| ticket.id).collect());
    }

    /// Whether this event was taken, where that is remembered.
    #[must_use]
    pub fn has(&self, id: i64) -> bool {
        self.ids.as_ref().is_some_and(|ids| ids.contains(&id))
    }

    /// Takes one more.
    pub fn add(&mut self, ticket: Ticket<R>) {
        if let Some(ids) = &mut self.ids {
            ids.insert(ticket.id);
        }
        self.tickets.push(ticket);
    }

    /// Whether an event of this lane is in flight or about to be: two routes would not keep their order.
    pub(super) fn is_on_its_way(&mut self, lane: Lane, window: &Window<R>) -> bool {
        let Some(lane) = lane else { return false };
        let in_flight = self.in_flight.get_or_insert_with(|| window.lanes().collect());
        in_flight.contains(&lane) || self.tickets.iter().any(|ticket| ticket.lane == Some(lane))
    }
}

/// Room in the window, while a batch is put together.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    events: usize,
    bytes: usize,
    empty: bool,
    reserved: (usize, usize),
}

impl Room {
    /// Keeps a quarter back for those who read later.
    pub fn reserve(&mut self) {
        self.reserved = (self.events / 4, self.bytes / 4);
    }

    /// Those who read now may have all.
    pub fn end_reserve(&mut self) {
        self.reserved = (0, 0);
    }

    /// Whether there is room for one more event of so many bytes. One that is larger than all the room is taken alone.
    #[must_use]
    pub fn fits(&self, weight: usize) -> bool {
        let (events, bytes) = self.reserved;
        self.events > events && (self.empty || weight.saturating_add(bytes) <= self.bytes)
    }

    /// Takes the room of an event.
    pub fn take(&mut self, weight: usize) {
        self.events = self.events.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(weight);
        self.empty = false;
    }
}
